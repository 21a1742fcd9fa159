"""One bilevel iteration against one plain training step: seconds, memory and closeness of each way to differentiate.

    python benchmarks/hypergradient.py [--part lora|head] [--rows 8] [--tokens 128] [--steps 3]

An iteration is a lower step, the meta gradient, and the derivative of the meta loss by all labels and weights of the
batch: one label for each step of each program.  All ways read a program once for all its steps, but for `as released`:
the released way on batches as the released code makes them, a pass a prefix.  The backbone is a random Llama of
SmolLM2-135M's shape (or fewer layers), so nothing is fetched.  `betty` is the library behind the released code; its own
function is timed where it is installed (pip install betty-ml).
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch.func import functional_call, grad
from torch.nn.functional import cosine_similarity

from dreamprm_lib.engine import hypergradient as hg
from dreamprm_lib.engine.losses import sample_losses

ROUNDS = 5


def seconds(action: Callable) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def lora_model(layers: int):
    """A Llama of SmolLM2-135M's shape with random weights, LoRA of rank 8 on its attention, and a head."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, attn_implementation="eager",
    )  # fmt: skip
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    model = get_peft_model(LlamaModel(config), LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.02)
    model.head = torch.nn.Linear(576, 1)
    return model


def forward_of(model, ids: torch.Tensor, ends: list[int], by_prefix: bool = False):
    """Logits [rows · steps] as a function of the parameters that train: those at the `ends` of the steps, from one pass
    over each program, or from a pass over each prefix."""
    frozen = {n: p.detach() for n, p in model.named_parameters() if not p.requires_grad}

    def forward(parameters):
        kept = frozen | dict(parameters)

        def states(tokens: torch.Tensor) -> torch.Tensor:
            return functional_call(
                model.base_model.model, _inner(kept), (tokens,), {"use_cache": False}
            ).last_hidden_state

        if by_prefix:
            last = torch.stack([states(ids[:, : end + 1])[:, -1] for end in ends], dim=1)
        else:
            last = states(ids)[:, ends]
        return (last @ kept["head.weight"].T + kept["head.bias"]).reshape(-1)

    return forward


def _inner(parameters):
    prefix = "base_model.model."
    return {n.removeprefix(prefix): p for n, p in parameters.items() if n.startswith(prefix)}


def released_way(lower: hg.Lower, parameters, meta_loss, size: float = 0.01) -> hg.LowerStep:
    """One lower step, and the derivatives as the released code has them: the lower loss's gradient by labels and
    weights, at the parameters moved by `size` along v and against it, and the difference of both."""
    after, _ = lower.step(parameters, *lower.upper)
    direction = lower.precondition(grad(meta_loss)(after))
    length = torch.stack([(d**2).sum() for d in direction.values()]).sum().sqrt()
    slopes = []
    for sign in (1, -1):
        moved = {name: p + sign * size / length * direction[name] for name, p in parameters.items()}
        upper = [t.detach().clone().requires_grad_() for t in lower.upper]
        slopes.append(torch.autograd.grad(lower.batch_loss(lower.forward(moved), *upper), upper))
    scale = -lower.lr * length / (2 * size)
    return hg.LowerStep(after, *(scale * (up - down) for up, down in zip(*slopes, strict=True)))


def betty_derivatives(lower: hg.Lower, parameters, meta_loss) -> hg.LowerStep:
    """The same derivatives by betty's own function, on the least that it asks of a problem."""
    from betty.hypergradient.darts import darts

    after, _ = lower.step(parameters, *lower.upper)
    vector = tuple(lower.precondition(grad(meta_loss)(after)).values())
    phi = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    upper = [t.detach().clone().requires_grad_() for t in lower.upper]

    class Problem:
        class config:
            darts_alpha = 0.01

        cur_batch = None

        @staticmethod
        def trainable_parameters():
            return list(phi.values())

        @staticmethod
        def training_step_exec(_batch):
            return lower.batch_loss(lower.forward(phi), *upper)

    class Upper:
        @staticmethod
        def trainable_parameters():
            return upper

    by_label, by_weight = (lower.lr * d for d in darts(vector, Problem, Upper))
    return hg.LowerStep(after, by_label, by_weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("lora", "head"), default="lora", help="what trains (default: lora)")
    parser.add_argument("--layers", type=int, default=12, help="of the backbone (SmolLM2-135M has 30; default: 12)")
    parser.add_argument("--rows", type=int, default=8, help="of a batch, and of the meta batch (default: 8)")
    parser.add_argument("--tokens", type=int, default=128, help="of a row; half of them the statement (default: 128)")
    parser.add_argument("--steps", type=int, default=3, help="of a program, each with its label (default: 3)")
    parser.add_argument("--only", metavar="WAY", help="run one way once, and print the process's peak memory in GB")
    options = parser.parse_args()
    torch.manual_seed(1)
    model = lora_model(options.layers)
    ids, meta_ids = torch.randint(0, 2000, (2, options.rows, options.tokens))
    code = options.tokens // 2
    ends = [options.tokens - 1 - code * later // options.steps for later in reversed(range(options.steps))]
    labels, meta_labels = torch.rand(options.rows * options.steps), (torch.rand(options.rows) > 0.5).float()
    by_prefix = None
    if options.part == "lora":
        parameters = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        forward, meta_forward = forward_of(model, ids, ends), forward_of(model, meta_ids, ends[-1:])
        by_prefix = forward_of(model, ids, ends, by_prefix=True)
    else:  # what is frozen was computed once
        with torch.no_grad():
            states, meta_states = (model(x, use_cache=False).last_hidden_state for x in (ids, meta_ids))
        states, meta_states = states[:, ends].flatten(0, 1), meta_states[:, -1]
        parameters = {"w": model.head.weight.detach()[0], "b": model.head.bias.detach()}
        forward, meta_forward = (lambda p, x=x: x @ p["w"] + p["b"] for x in (states, meta_states))

    def meta_loss(phi):
        return sample_losses(meta_forward(phi), meta_labels).mean()

    lower = hg.Lower(forward, labels, lr=1e-2)
    ways: dict[str, Callable] = {
        "two forwards": lambda: hg.differentiated_step(lower, parameters, meta_loss, hg.two_forwards),
        "forward mode": lambda: hg.differentiated_step(lower, parameters, meta_loss),
        "released way": lambda: released_way(lower, parameters, meta_loss),
        "double backward": lambda: hg.unrolled(lower, parameters, meta_loss),
    }
    if by_prefix:
        as_released = hg.Lower(by_prefix, labels, lr=1e-2)
        ways["as released"] = lambda: released_way(as_released, parameters, meta_loss)
    if importlib.util.find_spec("betty"):
        ways["betty"] = lambda: betty_derivatives(lower, parameters, meta_loss)
    else:
        print("betty is not installed, so it is not timed")
    ways["plain step"] = lambda: lower.step(parameters, *lower.upper)
    if options.only:
        ways[options.only]()
        status = Path("/proc/self/status").read_text()  # getrusage would count what the parent process held
        print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024**2)
        return
    exact = hg.unrolled(lower, parameters, meta_loss)
    taken = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            taken[name].append(seconds(way))
    median = {name: statistics.median(times) for name, times in taken.items()}
    size = sum(p.numel() for p in parameters.values())
    print(f"{options.part}: {size:,} parameters train; a plain step takes {median['plain step']:.4f} s")
    table = pd.DataFrame({"plain steps": median}) / median["plain step"]
    table["GB"] = [peak_gigabytes(name) for name in ways]
    for other in ("released way", "as released"):
        if other in median:
            table[f"/ {other}"] = [median[name] / median[other] for name in ways]
    found = {name: way().by_label for name, way in ways.items() if name != "plain step"}
    truth = exact.by_label
    table["relative error"] = {name: f"{float((d - truth).norm() / truth.norm()):.1e}" for name, d in found.items()}
    table["cosine"] = {name: f"{float(cosine_similarity(d, truth, dim=0)):.6f}" for name, d in found.items()}
    print(table.round(2).fillna("").to_string())


def peak_gigabytes(way: str) -> float:
    """Peak memory of a process of its own that goes one way once."""
    command = [sys.executable, *sys.argv, "--only", way]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
