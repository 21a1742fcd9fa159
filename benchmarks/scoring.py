"""Scoring every step of every candidate: one pass over the tree against one pass a prefix, on the same model and dtype.

    python benchmarks/scoring.py [--study reference] [--candidates 8 16] [--statement 0 500] [--problems 2]

Prints the measured ratio beside the one that token counts allow (tokens the plain way must read, over tokens each read
once), and the useful FLOPs a second of the one pass as a share of the machine's measured matrix-product limit.  Real
candidates, real step counts; `--statement N` lengthens statements to N tokens (LiveCodeBench's have about 500).  The
last line says what the states of all layers and their means cost, beside those of the last layer alone.  Every time is
the median of five.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import chain, product
from pathlib import Path

import torch

from dreamprm_lib.engine.backbone import DTYPES, Backbone, Template, Tree, fast_dtype, layer_count, open_model
from dreamprm_lib.engine.problems import load_problems
from dreamprm_lib.study.folder import Study
from dreamprm_lib.study.rows import Program

ROUNDS = 5


def seconds(action) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def matrix_product_flops(dtype: torch.dtype, size: int = 4096) -> float:
    """FLOP/s of a large square matrix product, the best of five."""
    left, right = torch.randn(2, size, size, dtype=dtype)
    return 2 * size**3 / min(seconds(lambda: torch.nn.functional.linear(left, right)) for _ in range(5))


def plain(model, tree: Tree) -> None:
    """One pass a prefix."""
    for steps in tree.branches:
        for k in range(len(steps)):
            model(torch.tensor([[*tree.root, *chain(*steps[: k + 1]), *tree.leaf]]))


def once(model, tree: Tree) -> None:
    """One pass over the tree."""
    for _ in tree.passes(model, (len(model.layers),)):
        pass


def medians(*actions) -> list[float]:
    """Seconds of each action, the median of five rounds in which they take turns; a first round warms up."""
    rounds = [[seconds(action) for action in actions] for _ in range(ROUNDS + 1)]
    return [statistics.median(of_action) for of_action in zip(*rounds[1:], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="reference")
    parser.add_argument("--backbone", default="qwen2.5-coder-0.5b-instruct-q4_k_m")
    parser.add_argument("--layers", type=int, default=6, help="of the backbone that are read (default: 6)")
    parser.add_argument("--dtype", default=fast_dtype(), help=f"one of {', '.join(DTYPES)} (here: {fast_dtype()})")
    parser.add_argument("--candidates", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--statement", type=int, nargs="+", default=[0, 500], metavar="N")
    parser.add_argument("--problems", type=int, default=2)
    options = parser.parse_args()
    tokenizer, model = open_model(options.backbone, options.dtype, options.layers)
    weights = sum(p.numel() for layer in model.layers for p in layer.parameters())
    rows = Study(Path(__file__).parent.parent / "outputs", options.study).read("candidates.jsonl", Program)
    problems = {p.id: p for p in load_problems("starter")}
    limit = matrix_product_flops(model.dtype)
    print(f"{options.backbone}, {len(model.layers)} layers, {options.dtype}; matrix products {limit / 1e9:.0f} GFLOP/s")
    for least, count in product(options.statement, options.candidates):
        trees = []
        for name in list(dict.fromkeys(row.problem for row in rows))[: options.problems]:
            programs = [row.steps for row in rows if row.problem == name][:count]
            tree = Tree.of(tokenizer, Template().root(problems[name]), "", programs)
            if least > len(tree.root):
                tree = Tree((tree.root * least)[:least], tree.branches, tree.leaf)
            trees.append(tree)
        tokens, many = sum(tree.tokens for tree in trees), sum(tree.tokens_by_prefix for tree in trees)
        with torch.inference_mode():
            a, b = medians(
                lambda trees=trees: [once(model, tree) for tree in trees],
                lambda trees=trees: [plain(model, tree) for tree in trees],
            )
        steps = statistics.mean(len(program) for tree in trees for program in tree.branches)
        roots = statistics.mean(len(tree.root) for tree in trees)
        print(
            f"{count} candidates of {steps:.1f} steps, statements of {roots:.0f} tokens: {b / a:.2f} times as fast, "
            f"token counts allow {many / tokens:.2f} ({b / a * tokens / many:.0%}); "
            f"{tokens / a:.0f} tokens/s, {2 * weights * tokens / a / limit:.0%} of the limit"
        )
    top = layer_count(options.backbone)
    _, model = open_model(options.backbone, options.dtype, top)
    eye = Backbone(options.backbone, tuple(range(1, top + 1)), dtype=options.dtype)
    before = Template().root(problems[rows[0].problem])
    programs = [row.steps for row in rows if row.problem == rows[0].problem][: max(options.candidates)]
    tree = Tree.of(tokenizer, before, "", programs)
    with torch.inference_mode():
        one, every = medians(lambda: once(model, tree), lambda: eye._read(before, programs))
    print(f"all {top} layers, with the means of steps and prefixes: {every / one:.2f} times the time of the last one")


if __name__ == "__main__":
    main()
