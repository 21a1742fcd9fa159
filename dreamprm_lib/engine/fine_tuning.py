"""Fine-tuning a backbone with a linear head, the original's way: low-rank matrices beside frozen weights.

The score of a prefix is the sigmoid of a linear head on its state.  `Lora` trains low-rank matrices in every layer of a
causal LM (rank 8, alpha 16 on the four attention projections).

With a meta set, the labels that may move are learned too (DreamPRM-Code, section 3.3): after each step of the model,
each label of its batch moves against its derivative of the meta loss, by one forward-mode product through the step.

Several processes share each batch (`engine.parallel`).  Gradients are summed over them; labels are one table, the same
in all, and a label is known by its number in it; the meta gradient is summed before the forward-mode product.  Training
saves where it stands and goes on from there, on as many processes as there are then.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from dreamprm_lib.engine import parallel
from dreamprm_lib.engine.backbone import Backbone, Tree, Tuning, open_model
from dreamprm_lib.engine.files import write_atomically
from dreamprm_lib.engine.hypergradient import Lower, by_sample, forward_mode, two_forwards
from dreamprm_lib.engine.losses import check_loss, sample_losses
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.schema import row_of
from dreamprm_lib.errors import InputError

log = logging.getLogger(__name__)

PRECISIONS = ("backbone", "mixed", "double")
LOOKS = 21  # at held-out examples, evenly over the iterations


Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1000)]


@dataclass(frozen=True)
class Lora:
    """Low-rank matrices beside the named projections of every layer (Hu et al., arXiv 2106.09685)."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Example:
    """A problem, its programs as texts of steps, a label in [0, 1] for each step (NaN: no label), and which labels may
    move where a meta set teaches (None: all)."""

    problem: Problem
    programs: Sequence[Sequence[str]]
    labels: Sequence[Sequence[float]]
    movable: Sequence[Sequence[bool]] | None = None


@dataclass(frozen=True)
class Recipe:
    """What trains, and how: AdamW, one pack of candidates a pass, `accumulation` passes a step, for `epochs` rounds of
    all packs; then `iterations` more steps of `iteration_accumulation` passes, at which labels move too, by Adam with
    `meta_lr`, if there is a meta set.

    `loss` is `mse` (the original's) or `cross_entropy`, both to soft labels; `smoothing` draws labels towards 1/2;
    `checkpointing` trades time for memory.  `precision` is the backbone's own, `mixed` (products in bfloat16), or
    `double`.

    `processes` of this machine train together; `shard` spreads the frozen weights over them.  Every `save_every` steps
    it is saved where training stands.
    """

    part: Lora = field(default_factory=Lora)
    epochs: Positive = 5
    iterations: Annotated[int, Field(ge=0)] = 0
    learning_rate: Rate = 1e-4
    loss: str = "mse"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    accumulation: Positive = 8
    iteration_accumulation: Positive = 8
    checkpointing: bool = False
    seed: int = 0
    precision: str = "backbone"
    meta_lr: Rate = 0.02
    processes: Positive = 1
    shard: bool = False
    save_every: Positive = 50

    @property
    def looks(self) -> list[int]:
        """The iterations before which the loss of held-out examples is measured, and the last one: `LOOKS` in all."""
        return sorted({round(k) for k in np.linspace(0, self.iterations, LOOKS)})


CORRECTING = ("iterations", "meta_lr", "smoothing")  # parameters of chapter 5 that a head and a recipe share


def recipe_of(training: str, settings: dict, seed: int, **defaults) -> Recipe:
    """A recipe from a profile: `training` names what trains, `settings` are fields of `Recipe`, and `defaults` those
    that hold where it says nothing.

    Raises `InputError` for what is no recipe, field by field.
    """
    if training != "lora":
        raise InputError(f"`training` is {training!r}: choose head or lora.")
    return row_of(Recipe, {"part": Lora(), "seed": seed} | defaults | settings, "The recipe")


@dataclass(frozen=True)
class FineTuned:
    """The tuning of the backbone, the head (weight [width] and bias), the mean loss of every round of all packs, the
    labels as they ended, in the order of the examples' steps, and the loss (summed over its steps) of each held-out
    example at each of `Recipe.looks` [looks, held out]."""

    tuning: Tuning
    weight: np.ndarray
    bias: float
    losses: list[float]
    labels: np.ndarray
    held_out: np.ndarray


OUTCOMES = Recipe(loss="cross_entropy")  # the upper level's loss


class StepScorer(torch.nn.Module):
    """The part of the model that is computed again in each pass, and the head."""

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


def fine_tune(
    backbone: Backbone,
    examples: Sequence[Example],
    recipe: Recipe,
    meta: Sequence[Example] = (),
    saved: Path | None = None,
    held_out: Sequence[Example] = (),
) -> FineTuned:
    """Train a head and a part of the backbone on labelled steps; the last of `backbone.layers` is the state's layer.

    The labels of the `meta` examples are clean outcomes, which teach the others' labels; those of the `held_out` ones
    are outcomes that teach nothing and are only looked at.  `saved` is a folder that
    keeps how far each training got, in a file named by all that it depends on; if its file is there, training goes on.

    Raises `InputError` for an unknown loss or precision, projections that are not there, a backbone that is tuned
    already, examples without any label, a label outside [0, 1], a saved state that is damaged, and where training
    diverges.
    """
    if backbone.tuning:
        raise InputError("This backbone is tuned already; fine-tuning starts from the one as it was published.")
    check_loss(recipe.loss)
    if recipe.precision not in PRECISIONS:
        raise InputError(f"There is no precision {recipe.precision!r}: choose one of {', '.join(PRECISIONS)}.")
    _refuse_strange_labels([*examples, *meta, *held_out])
    if recipe.processes > 1 and parallel.size() == 1:
        alone = replace(recipe, processes=1)
        return parallel.launch(recipe.processes, fine_tune, backbone, examples, alone, meta, saved, held_out)
    torch.manual_seed(recipe.seed)
    scorer, batches, extract = _prepared(backbone, [*examples, *meta, *held_out], recipe)
    of = [[b for b in batches if b["example"] == k] for k in range(len(examples) + len(meta) + len(held_out))]
    train, outcomes = (list(itertools.chain(*part)) for part in (of[: len(examples)], of[len(examples) :][: len(meta)]))
    if not train:
        raise InputError("No step of the examples has a label, so nothing can be trained.")
    training = _Training(scorer, train, outcomes, recipe, of[len(examples) + len(meta) :])
    state = saved / f"{_fingerprint(backbone, recipe, examples, meta, held_out)}.pt" if saved else None
    if state and state.exists():
        training.load(state)
    with tqdm(total=training.steps, initial=training.done, desc="fine-tuning", unit="step") as bar:
        while training.done < training.steps:
            training.step()
            bar.update()
            if state and (training.done % recipe.save_every == 0 or training.done == training.steps):
                training.save(state)
    training.look()
    looked = np.array(training.looked).reshape(len(training.looked), len(held_out))
    head = scorer.head.cpu()
    weight = head.weight[0].detach().double().numpy()
    return FineTuned(
        extract(scorer.model), weight, head.bias.item(), training.losses, training.labels(examples), looked
    )


def _refuse_strange_labels(examples: Sequence[Example]) -> None:
    for example in examples:
        for number, row in enumerate(example.labels):
            for step, label in enumerate(row):
                if not (0 <= label <= 1 or np.isnan(label)):
                    raise InputError(
                        f"{example.problem.id}, program {number}, step {step}: the label {label} lies outside [0, 1]."
                    )


def _fingerprint(backbone: Backbone, recipe: Recipe, *parts: Sequence[Example]) -> str:
    """What tells one training from another; how many processes share it, and how often it is saved, does not."""
    fixed = replace(recipe, processes=1, shard=False, save_every=1)
    sizes = list(map(len, parts))
    digest = hashlib.sha256(f"{fixed} {backbone.digest} {backbone.layers} {backbone.dtype} {sizes}".encode())
    for x in itertools.chain(*parts):
        rows = [list(map(float, row)) for row in x.labels]
        movable = x.movable and [list(map(bool, row)) for row in x.movable]
        said = (backbone.template.root(x.problem), backbone.template.after, [*map(list, x.programs)], rows, movable)
        digest.update(repr(said).encode())
    return digest.hexdigest()[:16]


class _Training:
    """Where a training stands: what trains, its optimiser, the labels and theirs, and how many steps are done.

    The order of batches follows from the seed and the number of the step alone.
    """

    def __init__(
        self,
        scorer: StepScorer,
        train: list[dict],
        meta: list[dict],
        recipe: Recipe,
        held_out: Sequence[list[dict]] = (),
    ):
        self.scorer, self.train, self.meta, self.recipe = scorer.train(), train, meta, recipe
        self.held_out = held_out
        self.looked: list[list[float]] = []
        self.trained = {name: p for name, p in scorer.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(self.trained.values(), lr=recipe.learning_rate)
        self.table = torch.cat([batch["labels"] for batch in train]).double()
        self.movable = torch.cat([batch["movable"] for batch in train])
        self.table_optimiser = torch.optim.SparseAdam([self.table], lr=recipe.meta_lr)
        self.done, self.running = 0, 0.0
        self.losses: list[float] = []
        first = 0
        for batch in train:
            batch["ids"] = torch.arange(first, first := first + len(batch["labels"]))

    @property
    def warm_up(self) -> int:
        """The steps before the first iteration."""
        return self.recipe.epochs * -(-len(self.train) // self.recipe.accumulation)

    @property
    def steps(self) -> int:
        return self.warm_up + self.recipe.iterations

    def _place(self) -> tuple[int, int, int]:
        """The rounds over all batches that are complete, the groups of the present one that are, and a group's size."""
        iteration, size = self.done - self.warm_up, self.recipe.accumulation
        if iteration < 0:
            return *divmod(self.done, -(-len(self.train) // size)), size
        size = self.recipe.iteration_accumulation
        rounds, place = divmod(iteration, -(-len(self.train) // size))
        return self.recipe.epochs + rounds, place, size

    def step(self) -> None:
        """One step of the model on the next group of batches, and one of their labels."""
        self.look()
        rounds, place, size = self._place()
        group = self._shuffled(self.train, rounds)[place * size : (place + 1) * size]
        correcting = bool(self.meta) and self.done >= self.warm_up
        before = {name: p.detach().clone() for name, p in self.trained.items()} if correcting else {}
        mine, logits, losses = parallel.share(group, self.recipe.shard), [], torch.zeros(1, dtype=torch.float64)
        for batch, part in mine:
            z = self._logits(batch)
            loss = part / len(group) * _loss(z, self.table[batch["ids"]], self.recipe)
            loss.backward()
            logits.append(z.detach())
            losses += loss.item()
        parallel.sum_up([losses, *self._gradients()])
        length = torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        self.optimiser.step()
        if not (np.isfinite(float(losses) + float(length)) and self._is_finite()):
            raise InputError(
                f"Fine-tuning diverged in step {self.done + 1} of {self.steps} (loss {float(losses):.3g}, gradient "
                f"{float(length):.3g}). Lower `learning_rate`, which is {self.recipe.learning_rate}."
            )
        if correcting:
            self._correct(before, group, mine, logits, clipped=min(1.0, 1.0 / (float(length) + 1e-6)))
        self.optimiser.zero_grad()
        self.running += losses.item() * len(group) / len(self.train)
        self.done += 1
        if (place + 1) * size >= len(self.train):
            self.losses.append(self.running)
            self.running = 0.0

    def _correct(self, before: dict, group: list[dict], mine: list, logits: list[torch.Tensor], clipped: float) -> None:
        """Move the labels of a group against the derivative of the meta loss, after the step that they just gave.

        The step is differentiated with Adam's second moments and the clipping as they were: P = clipped / (√moment +
        ε); momentum scales all derivatives by the same factor and is left out, since Adam on the labels ignores it.
        """
        self.optimiser.zero_grad()
        outcomes = self._shuffled(self.meta, self.done)[: self.recipe.iteration_accumulation]
        for batch, part in parallel.share(outcomes, self.recipe.shard):
            (part / len(outcomes) * _loss(self._logits(batch), batch["labels"], OUTCOMES)).backward()
        parallel.sum_up(self._gradients())
        direction = {name: self._preconditioned(p, clipped) for name, p in self.trained.items()}
        slopes = torch.zeros_like(self.table)
        for (batch, part), z in zip(mine, logits, strict=True):
            known = ~torch.isnan(batch["labels"])
            target = _target(self.table[batch["ids"]][known].to(z), self.recipe)
            lower = Lower(partial(self._logits, batch), target, self.recipe.learning_rate, self.recipe.loss)
            along = two_forwards if self.recipe.shard else forward_mode  # FSDP knows no forward mode
            derivative = along(lower.forward, before, direction)[known]
            by_label = by_sample(lower, z[known], derivative)[0]
            slopes[batch["ids"][known]] += part / len(group) * by_label.double().cpu()
        parallel.sum_up([slopes])
        ids = torch.cat([batch["ids"] for batch in group])
        ids = ids[self.movable[ids] & ~torch.isnan(self.table[ids])]
        gradient = (1 - self.recipe.smoothing) * slopes[ids]
        self.table.grad = torch.sparse_coo_tensor(ids[None], gradient, self.table.shape, check_invariants=False)
        self.table_optimiser.step()
        self.table.clamp_(0.0, 1.0)

    def look(self) -> None:
        """Measure the loss of each held-out example, where it is time to."""
        if not self.held_out or self.done - self.warm_up not in self.recipe.looks[len(self.looked) :]:
            return
        losses = torch.zeros(len(self.held_out), dtype=torch.float64)
        packs = [(number, batch) for number, mine in enumerate(self.held_out) for batch in mine]
        for (number, batch), part in parallel.share(packs, self.recipe.shard):
            with torch.no_grad():
                mean = _loss(self._logits(batch), batch["labels"], OUTCOMES)
            losses[number] += part * mean.item() * int((~torch.isnan(batch["labels"])).sum())
        parallel.sum_up([losses])
        self.looked.append(losses.tolist())

    def _preconditioned(self, parameter: torch.Tensor, clipped: float) -> torch.Tensor:
        state, options = self.optimiser.state[parameter], self.optimiser.param_groups[0]
        moment = state["exp_avg_sq"] / (1 - options["betas"][1] ** float(state["step"]))
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return clipped * gradient / (moment.sqrt() + options["eps"])

    def _logits(self, batch: dict, parameters: dict | None = None) -> torch.Tensor:
        """Logits [steps] of a batch, by the model as it is or with other values of what trains."""
        arguments = (batch["ends"], batch["inputs"])
        with self._precision(), sdpa_kernel(SDPBackend.MATH) if parameters else nullcontext():
            return functional_call(self.scorer, parameters, arguments) if parameters else self.scorer(*arguments)

    def _precision(self) -> AbstractContextManager:
        device = self.scorer.head.weight.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.recipe.precision == "mixed")

    def _gradients(self) -> list[torch.Tensor]:
        """The gradients of what trains: zero where a process had nothing to do."""
        found = []
        for p in self.trained.values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            found.append(p.grad)
        return found

    def _shuffled(self, batches: list[dict], turn: int) -> list[dict]:
        generator = torch.Generator().manual_seed(1_000_003 * self.recipe.seed + turn)
        return [batches[k] for k in torch.randperm(len(batches), generator=generator)]

    def labels(self, examples: Sequence[Example]) -> np.ndarray:
        """The labels [steps] of the examples as they are now; those that no batch has are as they were."""
        found = [[list(map(float, program)) for program in example.labels] for example in examples]
        for batch in self.train:
            values = iter(self.table[batch["ids"]].tolist())
            for owner in batch["owners"]:
                found[batch["example"]][owner] = [next(values) for _ in found[batch["example"]][owner]]
        return np.array([label for example in found for program in example for label in program])

    def save(self, path: Path) -> None:
        """Write all that the next step depends on, whole or not at all; the first process does it for all."""
        if parallel.rank():
            return
        state = {
            "done": self.done,
            "losses": self.losses,
            "running": self.running,
            "looked": self.looked,
            "trained": {name: p.detach() for name, p in self.trained.items()},
            "optimiser": self.optimiser.state_dict(),
            "table": self.table,
            "table_optimiser": self.table_optimiser.state_dict(),
            "random": torch.get_rng_state(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())

    def load(self, path: Path) -> None:
        """Go on from a saved state of this training.  Raises `InputError` for one that is damaged."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.done, self.losses, self.running = state["done"], state["losses"], state["running"]
            self.looked = state["looked"]
            with torch.no_grad():
                for name, own in [*self.trained.items(), ("table", self.table)]:
                    kept = state["table"] if name == "table" else state["trained"][name]
                    if kept.shape != own.shape:
                        raise ValueError(f"{name} has the shape {tuple(kept.shape)}, not {tuple(own.shape)}")
                    own.copy_(kept)
            self.optimiser.load_state_dict(state["optimiser"])
            self.table_optimiser.load_state_dict(state["table_optimiser"])
            torch.set_rng_state(state["random"])
            if self.done not in range(1, self.steps + 1) or len(self.losses) != self._place()[0]:
                raise ValueError(f"it is at step {self.done} of {self.steps} with {len(self.losses)} rounds")
            if not self._is_finite():
                raise ValueError("its weights are no numbers")
        except Exception as error:  # a damaged file raises whatever it happens to
            raise InputError(
                f"{path}, the saved state of training, is damaged ({error!r}). Delete it, and training starts again."
            ) from error
        log.info("training goes on at step %d of %d (%s)", self.done, self.steps, path)

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self.trained.values())


def _loss(logits: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Mean loss of the steps that have a label."""
    known = ~torch.isnan(labels)
    return sample_losses(logits[known], _target(labels[known].to(logits), recipe), recipe.loss).mean()


def _target(labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    return labels * (1 - recipe.smoothing) + recipe.smoothing / 2


def _prepared(backbone: Backbone, examples: Sequence[Example], recipe: Recipe):
    """The scorer, its batches, and how to take the tuning out of the trained model."""
    top = max(backbone.layers)
    tokenizer, frozen = open_model.__wrapped__(backbone.name, backbone.dtype, top)  # one that nobody shares
    model, extract = _with_lora(frozen, recipe.part)
    batches = list(_batches(backbone, examples, tokenizer, frozen.device))
    scorer = StepScorer(model, frozen.config.hidden_size).to(frozen.device)
    if recipe.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if recipe.precision == "double":
        scorer = scorer.double()
    if recipe.shard:
        parallel.shard(scorer, [m for m in scorer.modules() if isinstance(m, type(frozen.layers[0]))])
    return scorer, batches, extract


def _batches(backbone: Backbone, examples: Sequence[Example], tokenizer, device) -> Iterator[dict]:
    """A batch for each pack of candidates that has a label: inputs of the pass, rows of the steps' ends, labels."""
    for number, example in enumerate(examples):
        movable = example.movable or [[True] * len(row) for row in example.labels]
        template = backbone.template
        tree = Tree.of(tokenizer, template.root(example.problem), template.after, example.programs)
        for pack in tree.packs(carry_root=True):
            labels = np.concatenate([np.asarray(example.labels[owner], float) for owner in pack.owners])
            if not np.isnan(labels).all():
                yield {
                    "example": number,
                    "owners": pack.owners,
                    "inputs": pack.inputs(device),
                    "ends": torch.from_numpy(np.concatenate(pack.ends)),
                    "labels": torch.from_numpy(labels),
                    "movable": torch.tensor([bool(m) for owner in pack.owners for m in movable[owner]]),
                }


def _with_lora(model, part: Lora):
    from peft import LoraConfig, get_peft_model

    try:
        config = LoraConfig(r=part.rank, lora_alpha=part.alpha, target_modules=list(part.targets))  # type: ignore[arg-type]  # peft takes fractions
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
