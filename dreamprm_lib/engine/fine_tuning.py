"""Fine-tuning a backbone with a linear head: what is frozen is computed once, and what trains lies above it.

The score of a prefix is the sigmoid of a linear head on its state.  `Lora` trains low-rank matrices in every layer of a
causal LM (the original's way: rank 8, alpha 16 on the four attention projections); `LastLayers` trains the top of the
backbone on the states of the layers below it, which are read once.  `accelerate` puts both on what devices there are.

Not covered: resuming in the middle of a training, and devices that share one model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from dreamprm_lib.engine.backbone import Backbone, Tree, Tuning, open_model
from dreamprm_lib.engine.losses import check_loss, sample_losses
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.errors import InputError


@dataclass(frozen=True)
class Lora:
    """Low-rank matrices beside the named projections of every layer (Hu et al., arXiv 2106.09685)."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class LastLayers:
    """The last `count` of the layers that are read, with the final norm if it is one of them."""

    count: int = 2


@dataclass(frozen=True)
class Example:
    """A problem, its programs as texts of steps, and a label in [0, 1] for each step (NaN: no label)."""

    problem: Problem
    programs: Sequence[Sequence[str]]
    labels: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Recipe:
    """What trains, and how: AdamW, one pack of candidates a pass, `accumulation` passes a step.

    `loss` is `mse` (the original's) or `cross_entropy`, both to soft labels; `smoothing` draws labels towards 1/2;
    `checkpointing` trades time for memory.
    """

    part: Lora | LastLayers = field(default_factory=Lora)
    epochs: int = 5
    learning_rate: float = 1e-4
    loss: str = "mse"
    smoothing: float = 0.0
    accumulation: int = 8
    checkpointing: bool = False
    seed: int = 0


@dataclass(frozen=True)
class FineTuned:
    """The tuning of the backbone, the head (weight [width] and bias), and the mean loss of every epoch."""

    tuning: Tuning
    weight: np.ndarray
    bias: float
    losses: list[float]


class StepScorer(torch.nn.Module):
    """The part of the model that is computed anew in each pass, and the head."""

    def __init__(self, model: torch.nn.Module, width: int):
        super().__init__()
        self.model = model
        self.head = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, ends: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits [ends] of the states at the rows `ends`."""
        hidden = self.model(**inputs, use_cache=False).last_hidden_state[0]
        return self.head(hidden[ends].to(self.head.weight.dtype)).squeeze(-1)


def fine_tune(backbone: Backbone, examples: Sequence[Example], recipe: Recipe) -> FineTuned:
    """Train a head and a part of the backbone on labelled steps; the last of `backbone.layers` is the state's layer.

    Raises `InputError` for an unknown loss, a part that is not there, a backbone that is tuned already, or examples
    without any label.
    """
    if backbone.tuning:
        raise InputError("This backbone is tuned already; fine-tuning starts from the one as it was published.")
    check_loss(recipe.loss)
    set_seed(recipe.seed)
    scorer, batches, extract = _prepared(backbone, examples, recipe)
    if recipe.checkpointing:
        scorer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = [p for p in scorer.parameters() if p.requires_grad]
    accelerator = Accelerator(gradient_accumulation_steps=recipe.accumulation)
    scorer, optimizer, loader = accelerator.prepare(
        scorer,
        torch.optim.AdamW(trained, lr=recipe.learning_rate),
        DataLoader(batches, batch_size=1, shuffle=True, collate_fn=lambda batch: batch[0]),
    )
    losses = []
    scorer.train()
    for _ in tqdm(range(recipe.epochs), desc="fine-tuning", unit="epoch"):
        total = 0.0
        for batch in loader:
            with accelerator.accumulate(scorer):
                loss = _loss(scorer(batch["ends"], batch["inputs"]), batch["labels"], recipe)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad()
            total += loss.item()
        losses.append(total / len(loader))
    scorer = accelerator.unwrap_model(scorer)
    head = scorer.head.cpu()
    return FineTuned(extract(scorer.model), head.weight[0].detach().double().numpy(), head.bias.item(), losses)


def _loss(logits: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Mean loss of the steps that have a label."""
    known = ~torch.isnan(labels)
    target = labels[known] * (1 - recipe.smoothing) + recipe.smoothing / 2
    return sample_losses(logits[known], target, recipe.loss).mean()


def _prepared(backbone: Backbone, examples: Sequence[Example], recipe: Recipe):
    """The scorer, its batches, and how to take the tuning out of the trained model."""
    top = max(backbone.layers)
    if isinstance(recipe.part, Lora):
        tokenizer, frozen = open_model(backbone.name, backbone.dtype, top)
        model, extract = _with_lora(copy.deepcopy(frozen), recipe.part)
        batches = list(_batches(backbone, examples, tokenizer, frozen.device))
    else:
        below = top - recipe.part.count
        if below < 0 or recipe.part.count < 1:
            raise InputError(f"{recipe.part.count} layers can't train: {top} are read.")
        tokenizer, frozen = open_model(backbone.name, backbone.dtype, below)
        model, extract = _upper_part(open_model(backbone.name, backbone.dtype, top)[1], below)
        batches = list(_batches(backbone, examples, tokenizer, frozen.device))
        for batch in tqdm(batches, desc="reading with the frozen layers", unit="pack"):
            with torch.no_grad():
                states = frozen(**batch["inputs"], use_cache=False).last_hidden_state.float()
            del batch["inputs"]["input_ids"]
            batch["inputs"]["inputs_embeds"] = states
    if not batches:
        raise InputError("No step of the examples has a label, so nothing can be trained.")
    return StepScorer(model, frozen.config.hidden_size), batches, extract


def _batches(backbone: Backbone, examples: Sequence[Example], tokenizer, device) -> Iterator[dict]:
    """A batch for each pack of candidates that has a label: inputs of the pass, rows of the steps' ends, labels."""
    for example in examples:
        template = backbone.template
        tree = Tree.of(tokenizer, template.root(example.problem), template.after, example.programs)
        for pack in tree.packs(carry_root=True):
            labels = np.concatenate([np.asarray(example.labels[owner], np.float32) for owner in pack.owners])
            if not np.isnan(labels).all():
                ends = torch.from_numpy(np.concatenate(pack.ends))
                yield {"inputs": pack.inputs(device), "ends": ends, "labels": torch.from_numpy(labels)}


def _with_lora(model, part: Lora):
    from peft import LoraConfig, get_peft_model

    try:
        config = LoraConfig(r=part.rank, lora_alpha=part.alpha, target_modules=list(part.targets))
        model = get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"LoRA can't be put on {', '.join(part.targets)}: {error}") from error

    def extract(trained) -> Tuning:
        pairs = {
            name.removeprefix("base_model.model."): tuple(
                side["default"].weight.detach().float().cpu() for side in (module.lora_A, module.lora_B)
            )
            for name, module in trained.named_modules()
            if hasattr(module, "lora_A")
        }
        return Tuning(part.alpha, pairs)

    return model, extract


def _upper_part(model, below: int):
    """A copy of the layers above `below`, in float32, that reads states instead of tokens."""
    upper = copy.deepcopy(model).float().requires_grad_(True)
    upper.layers = upper.layers[below:]
    upper.embed_tokens = torch.nn.Identity()
    for index, layer in enumerate(upper.layers):
        layer.self_attn.layer_idx = index

    def extract(trained) -> Tuning:
        def name_in_whole(name: str) -> str:
            first, _, rest = name.partition(".")
            return (
                f"layers.{below + int(rest.partition('.')[0])}.{rest.partition('.')[2]}" if first == "layers" else name
            )

        return Tuning(replaced={name_in_whole(n): p.detach().cpu() for n, p in trained.named_parameters()})

    return upper, extract
