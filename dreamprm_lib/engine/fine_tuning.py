"""Fine-tuning a backbone with a linear head, the original's way: low-rank matrices beside frozen weights.

The score of a prefix is the sigmoid of a linear head on its state.  Low-rank matrices train in every layer of a causal
LM (rank 8, alpha 16 on the four attention projections).

`LoraScorer` begins with a warm-up that fits the model to labels; then it can be corrected (`label_correction.correct`;
DreamPRM-Code, section 3.3): each further step of the model is differentiated by the labels of its batch, by one
forward-mode product through the step.

Several processes share each batch (`engine.parallel`).  Gradients are summed over them; labels are one table, the same
in all, and a label is known by its row; the meta gradient is summed before the forward-mode product.  Training saves
where it stands and goes on from there, on as many processes as there are then.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from dreamprm_lib.engine import parallel
from dreamprm_lib.engine.backbone import Backbone, Tree, Tuning, open_model
from dreamprm_lib.engine.files import write_atomically
from dreamprm_lib.engine.hypergradient import Parameters, by_sample, forward_mode, two_forwards
from dreamprm_lib.engine.losses import PAIRWISE, Pairs, sample_losses
from dreamprm_lib.engine.problems import Problem
from dreamprm_lib.engine.schema import row_of
from dreamprm_lib.errors import InputError

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1000)]


class Steps(Protocol):
    """The columns of a step table (`dreamprm_lib.steps`) that training reads, whole programs behind one another: the
    label is in [0, 1], or NaN where a step has none."""

    @property
    def problem(self) -> np.ndarray: ...
    @property
    def step(self) -> np.ndarray: ...
    @property
    def text(self) -> np.ndarray: ...
    @property
    def label(self) -> np.ndarray: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Recipe:
    """What trains, and how: AdamW, one pack of candidates a pass, `accumulation` passes a step, for `epochs` rounds of
    all packs; then, where labels are corrected, `iterations` more steps of `iteration_accumulation` passes, at which
    labels move too, by Adam with `meta_lr`.

    Beside the projections `targets` of every layer stand matrices of `rank`, scaled by `alpha` / rank (Hu et al., arXiv
    2106.09685).

    `loss` is `mse` (the original's) or `cross_entropy`, both to soft labels, or `pairwise`, whose scores rank, are no
    chances, and leave labels as they are; `smoothing` draws labels towards 1/2; `checkpointing` trades time for memory.
    `precision` is the backbone's own, `mixed` (products in bfloat16), or `double`.

    `processes` of this machine train together; `shard` spreads the frozen weights over them.  Every `save_every` steps
    it is saved where training stands.
    """

    rank: Positive = 8
    alpha: Rate = 16.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    epochs: Positive = 5
    iterations: Annotated[int, Field(ge=0)] = 0
    learning_rate: Rate = 1e-4
    loss: Literal["mse", "cross_entropy", "pairwise"] = "mse"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    accumulation: Positive = 8
    iteration_accumulation: Positive = 8
    checkpointing: bool = False
    seed: int = 0
    precision: Literal["backbone", "mixed", "double"] = "backbone"
    meta_lr: Rate = 0.02
    processes: Positive = 1
    shard: bool = False
    save_every: Positive = 50

    def __post_init__(self) -> None:
        if self.iterations and self.loss == PAIRWISE:
            raise InputError("Labels are corrected under the loss mse or cross_entropy; the recipe's is pairwise.")


PACK_TOKENS = 1024  # of candidates in one pass: only programs that share it are compared
CORRECTING = ("iterations", "meta_lr", "smoothing")  # parameters of chapter 5 that a head and a recipe share


def recipe_of(training: str, settings: dict, seed: int, **defaults) -> Recipe:
    """A recipe from a profile: `training` names what trains, `settings` are fields of `Recipe`, and `defaults` those
    that hold where it says nothing.

    Raises `InputError` for what is no recipe, field by field.
    """
    if training != "lora":
        raise InputError(f"`training` is {training!r}: choose head or lora.")
    return row_of(Recipe, {"seed": seed} | defaults | settings, "The recipe")


def recipe_in(parameters: Mapping[str, Any]) -> Recipe:
    """The recipe that the parameters of chapter 4 or 5 say; errors as of `recipe_of`."""
    correcting = {name: parameters[name] for name in CORRECTING if name in parameters}
    return recipe_of(parameters["training"], parameters["recipe"], parameters["seed"], **correcting)


@dataclass(frozen=True)
class FineTuned:
    """The tuning of the backbone, the head (weight [width] and bias), and the mean loss of every epoch."""

    tuning: Tuning
    weight: np.ndarray
    bias: float
    losses: list[float]


def fine_tune(
    backbone: Backbone, problems: Mapping[str, Problem], table: Steps, recipe: Recipe, saved: Path | None = None
) -> FineTuned:
    """Train a head and a part of the backbone on labelled steps; the last of `backbone.layers` is the state's layer.

    For `problems`, `saved` and errors see `LoraScorer`.
    """
    if recipe.processes > 1 and parallel.size() == 1:
        return parallel.launch(recipe.processes, fine_tune, backbone, problems, table, recipe, saved)
    scorer = LoraScorer(backbone, problems, recipe, saved)
    scorer.begin(table, None, None, None, smoothed(torch.tensor(table.label), recipe.smoothing))
    return scorer.fitted()


def smoothed(labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Labels drawn towards 1/2."""
    return (1 - smoothing) * labels + smoothing / 2


@dataclass(frozen=True)
class LabelledPack:
    """Programs of a problem that are read in one pass: its arguments, the rows of their steps in the table, and which
    of those have a label.  The loss of a pack is the mean over them, or over all pairs of them."""

    arguments: tuple[torch.Tensor, dict[str, torch.Tensor]]
    rows: torch.Tensor
    known: torch.Tensor

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, loss: str) -> torch.Tensor:
        """The mean loss of logits [steps] to the labels of the whole table, with its weights."""
        logits, rows = logits[self.known], self.rows[self.known]
        target, weight = (column[rows].to(logits) for column in (labels, weights))
        if loss == PAIRWISE:
            return Pairs.within(np.zeros(len(rows))).loss(logits, target, weight) if len(rows) > 1 else 0 * logits.sum()
        return (weight * sample_losses(logits, target, loss)).mean()


class StepScorer(torch.nn.Module):
    """The part of the model that is computed again in each pass, and the head, which starts at zero."""

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


class LoraScorer:
    """A head with low-rank matrices in the backbone beneath it, fitted by a recipe to the texts of whole programs.

    Steps without a label are read too.

    `problems` by id.  `saved` is a folder that keeps how far each training got, in a file named by all that it depends
    on; if its file is there, training goes on.  The order of packs follows from the seed and the number of the step.
    """

    looks = 21

    def __init__(self, backbone: Backbone, problems: Mapping[str, Problem], recipe: Recipe, saved: Path | None = None):
        self.backbone, self.problems, self.recipe, self.saved = backbone, problems, recipe, saved
        self.processes = recipe.processes

    # ---------------------------------------------------------------------------------------------- the lower level

    def begin(
        self, train: Steps, meta: Steps | None, held_out: Steps | None, settings: object, labels: torch.Tensor
    ) -> dict[str, Any]:
        """The warm-up, to labels [rows] of the steps to learn from.  Of a correction that was saved later than that:
        what `keep` was given.

        `meta` are steps with clean outcomes, which will teach the labels, and `held_out` those that are only looked at.
        Raises `InputError` for projections that are not there, a backbone that is tuned already, a table without any
        label, a label outside [0, 1], a saved state that is damaged, and where training diverges.
        """
        backbone, recipe = self.backbone, self.recipe
        if backbone.tuning:
            raise InputError("This backbone is tuned already; fine-tuning starts from the one as it was published.")
        tables = [table for table in (train, meta, held_out) if table is not None]
        for table in tables:
            for row in np.flatnonzero(~(np.isnan(table.label) | ((0 <= table.label) & (table.label <= 1))))[:1]:
                where = f"{table.problem[row]}, step {table.step[row]}"
                raise InputError(f"{where}: the label {table.label[row]} lies outside [0, 1].")
        torch.manual_seed(recipe.seed)
        tokenizer, model = open_model.__wrapped__(backbone.name, backbone.dtype, max(backbone.layers))  # of our own
        self.scorer = _with_lora(model, recipe)
        self.packs, *others = (_packs(backbone, self.problems, table, tokenizer, model.device) for table in tables)
        if not self.packs:
            raise InputError("No step of the table has a label, so nothing can be trained.")
        self.meta, self.held_out = (*others, [], [])[:2]
        self.outcomes = [torch.tensor(table.label) for table in tables[1:]]
        self.trained = {name: p for name, p in self.scorer.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(self.trained.values(), lr=recipe.learning_rate)
        self.clipped, self.done = 1.0, 0
        self.losses = [0.0]  # of each epoch, the present one last
        name = f"{_fingerprint(backbone, self.problems, recipe, tables, str(settings))}.pt"
        self.state = self.saved / name if self.saved else None
        kept = self._load() if self.state and self.state.exists() else {}
        groups = -(-len(self.packs) // self.recipe.accumulation)
        steps = self.recipe.epochs * groups
        for done in tqdm(range(self.done, steps), initial=self.done, total=steps, desc="fine-tuning", unit="step"):
            epoch, place = divmod(done, groups)
            group = self._group(self.packs, epoch, place, self.recipe.accumulation)
            self.losses[-1] += self._step(group, labels, torch.ones_like(labels))[0] * len(group) / len(self.packs)
            if place + 1 == groups:
                self.losses.append(0.0)
            self.keep(last=done + 1 == steps)
        return kept

    def _step(
        self, group: Sequence[LabelledPack], labels: torch.Tensor, weights: torch.Tensor
    ) -> tuple[float, list[tuple[LabelledPack, float, torch.Tensor]]]:
        """One step of AdamW on the mean loss of a group: that loss, and this process's packs with their shares in it
        and their logits before the step."""
        read, total = [], torch.zeros(1, dtype=torch.float64)
        self.optimiser.zero_grad()
        for pack, part in parallel.share(group, self.recipe.shard):
            logits = self.logits(pack)
            loss = part / len(group) * pack.loss(logits, labels, weights, self.recipe.loss)
            loss.backward()
            read.append((pack, part / len(group), logits.detach()))
            total += loss.item()
        parallel.sum_up([total, *self._gradient().values()])
        length = float(torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0))
        self.clipped = min(1.0, 1.0 / (length + 1e-6))
        self.optimiser.step()
        finite = all(bool(torch.isfinite(p).all()) for p in self.trained.values())
        if not (finite and np.isfinite(float(total) + length)):
            raise InputError(
                f"Fine-tuning diverged in step {self.done + 1} (loss {float(total):.3g}, gradient {length:.3g}). Lower "
                f"`learning_rate`, which is {self.recipe.learning_rate}."
            )
        return float(total), read

    # ---------------------------------------------------------------------------------------------- the upper level

    def differentiated(
        self, turn: int, labels: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A further step, and the derivative of the meta loss after it by the label and the weight of each row [rows];
        NaN for rows that had no part in it."""
        size = self.recipe.iteration_accumulation
        rounds, place = divmod(turn, -(-len(self.packs) // size))
        before = {name: p.detach().clone() for name, p in self.trained.items()}
        group = self._group(self.packs, self.recipe.epochs + rounds, place, size)
        _, read = self._step(group, labels, weights)
        v = self.precondition(self.meta_gradient(turn))
        along = two_forwards if self.recipe.shard else forward_mode  # FSDP knows no forward mode
        slopes = torch.zeros(2, len(labels), dtype=torch.float64)
        for pack, share, logits in read:
            known, rows = pack.known, pack.rows[pack.known]

            def loss(z: torch.Tensor, y: torch.Tensor, w: torch.Tensor, share: float = share) -> torch.Tensor:
                return share * (w * sample_losses(z, y, self.recipe.loss)).mean()

            z, (y, w) = logits[known], (column[rows].to(logits) for column in (labels, weights))
            derivative = along(partial(self.logits, pack), before, v)[known]
            found = torch.stack(by_sample(loss, z, y, w, derivative))
            slopes[:, rows] -= self.recipe.learning_rate * found.double().cpu()
        parallel.sum_up([slopes])
        taken = torch.cat([pack.rows[pack.known] for pack in group])
        absent = torch.ones(len(labels), dtype=torch.bool)
        absent[taken] = False
        by_label, by_weight = slopes.masked_fill(absent, torch.nan)
        return by_label, by_weight

    def meta_gradient(self, turn: int) -> dict[str, torch.Tensor]:
        """The gradient of the clean outcomes' cross-entropy, on as many packs as a step reads."""
        self.optimiser.zero_grad()
        group = self._group(self.meta, turn, 0, self.recipe.iteration_accumulation)
        for pack, part in parallel.share(group, self.recipe.shard):
            labels = self.outcomes[0]
            loss = pack.loss(self.logits(pack), labels, torch.ones_like(labels), "cross_entropy")
            (part / len(group) * loss).backward()
        gradient = self._gradient()
        parallel.sum_up(list(gradient.values()))
        return gradient

    def precondition(self, gradient: Parameters) -> dict[str, torch.Tensor]:
        """P of the last step: Adam's second moments and the clipping as they were, P = clipped / (√moment + ε).

        Momentum scales all derivatives by the same factor and is left out, since Adam on the labels ignores it.
        """
        options, found = self.optimiser.param_groups[0], {}
        for name, p in self.trained.items():
            state = self.optimiser.state[p]
            moment = state["exp_avg_sq"] / (1 - options["betas"][1] ** float(state["step"]))
            found[name] = self.clipped * gradient[name] / (moment.sqrt() + options["eps"])
        return found

    def look(self) -> np.ndarray:
        """The cross-entropy of each held-out row [rows]; NaN where it has no outcome."""
        labels = self.outcomes[1]
        losses = torch.zeros(len(labels), dtype=torch.float64)
        for pack, part in parallel.share(self.held_out, self.recipe.shard):
            rows = pack.rows[pack.known]
            with torch.no_grad():
                logits = self.logits(pack)[pack.known].double().cpu()
            losses[rows] += part * sample_losses(logits, labels[rows])
        parallel.sum_up([losses])
        return losses.masked_fill(labels.isnan(), torch.nan).numpy()

    # ---------------------------------------------------------------------------------------------- the model

    def logits(self, pack: LabelledPack, parameters: Parameters | None = None) -> torch.Tensor:
        """Logits [steps] of a pack, by the model as it is or with other values of what trains."""
        device = self.scorer.head.weight.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.recipe.precision == "mixed"):
            if parameters is None:
                return self.scorer(*pack.arguments)
            with sdpa_kernel(SDPBackend.MATH):
                return functional_call(self.scorer, dict(parameters), pack.arguments)

    def fitted(self) -> FineTuned:
        """The model as it is."""
        pairs = {
            name.removeprefix("base_model.model."): tuple(
                side["default"].weight.detach().float().cpu() for side in (module.lora_A, module.lora_B)
            )
            for name, module in self.scorer.model.named_modules()
            if hasattr(module, "lora_A")
        }
        head = self.scorer.head.cpu()
        weight = head.weight[0].detach().double().numpy()
        return FineTuned(Tuning(self.recipe.alpha, pairs), weight, head.bias.item(), self.losses[:-1])

    def _gradient(self) -> dict[str, torch.Tensor]:
        """The gradients of what trains: zero where a process had nothing to do."""
        for p in self.trained.values():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        return {name: p.grad for name, p in self.trained.items() if p.grad is not None}

    def _group(self, packs: Sequence[LabelledPack], turn: int, place: int, size: int) -> list[LabelledPack]:
        """The group at a place of the order that packs have in this turn."""
        generator = torch.Generator().manual_seed(1_000_003 * self.recipe.seed + turn)
        order = torch.randperm(len(packs), generator=generator)
        return [packs[k] for k in order[place * size : (place + 1) * size]]

    # ---------------------------------------------------------------------------------------------- what is saved

    def keep(self, kept: Mapping[str, Any] | None = None, last: bool = False) -> None:
        """One more step is done.  Where it is time to, and after the `last` one, write all that the next step depends
        on, `kept` with it, whole or not at all.  The first process does it for all."""
        self.done += 1
        if not self.state or parallel.rank() or not (last or self.done % self.recipe.save_every == 0):
            return
        state = {
            "done": self.done,
            "losses": self.losses,
            "trained": {name: p.detach() for name, p in self.trained.items()},
            "optimiser": self.optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "kept": kept or {},
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.state.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.state, buffer.getvalue())

    def _load(self) -> dict[str, Any]:
        """Go on from the saved state of this training."""
        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True)  # type: ignore[arg-type]
            with torch.no_grad():
                for name, own in self.trained.items():
                    own.copy_(state["trained"][name])
            self.optimiser.load_state_dict(state["optimiser"])
            torch.set_rng_state(state["random"])
            self.done, self.losses, kept = state["done"], state["losses"], state["kept"]
        except Exception as error:  # a damaged file raises whatever it happens to
            raise InputError(
                f"{self.state}, the saved state of training, is damaged ({error!r}). Delete it, and training starts "
                "again."
            ) from error
        return kept


def _fingerprint(
    backbone: Backbone, problems: Mapping[str, Problem], recipe: Recipe, tables: Sequence[Steps], about: str
) -> str:
    """What tells one training from another; how many processes share it, and how often it is saved, does not."""
    fixed = replace(recipe, processes=1, shard=False, save_every=1)
    digest = hashlib.sha256(f"{fixed} {backbone.digest} {backbone.layers} {backbone.dtype} {about}".encode())
    for table in tables:
        roots = [backbone.template.root(problems[name]) for name in dict.fromkeys(table.problem)]
        columns = [c.tolist() for c in (table.problem, table.step, table.text, table.label)]
        digest.update(repr((roots, backbone.template.after, columns)).encode())
    return digest.hexdigest()[:16]


def _with_lora(model, recipe: Recipe) -> StepScorer:
    """The model with low-rank matrices and a head, as the recipe wants it."""
    from peft import LoraConfig, get_peft_model

    targets = list(recipe.targets)
    try:
        config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=targets)  # type: ignore[arg-type]  # peft takes fractions
        tuned = get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"LoRA can't be put on {', '.join(targets)}: {error}") from error
    scorer = StepScorer(tuned, model.config.hidden_size).to(model.device)
    if recipe.checkpointing:
        tuned.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if recipe.precision == "double":
        scorer = scorer.double()
    if recipe.shard:
        parallel.shard(scorer, [m for m in scorer.modules() if isinstance(m, type(model.layers[0]))])
    return scorer.train()


def _packs(backbone: Backbone, problems: Mapping[str, Problem], table: Steps, tokenizer, device) -> list[LabelledPack]:
    """The packs of a table that have a label, problem by problem."""
    found = []
    for name in dict.fromkeys(table.problem):
        rows = np.flatnonzero(table.problem == name)
        programs = np.split(rows, np.flatnonzero(table.step[rows] == 0)[1:])
        template = backbone.template
        texts = [table.text[own].tolist() for own in programs]
        tree = Tree.of(tokenizer, template.root(problems[name]), template.after, texts)
        for pack in tree.packs(PACK_TOKENS, carry_root=True):
            mine = np.concatenate([programs[owner] for owner in pack.owners])
            if not np.isnan(table.label[mine]).all():
                arguments = torch.from_numpy(np.concatenate(pack.ends)), pack.inputs(device)
                found.append(
                    LabelledPack(arguments, torch.from_numpy(mine), torch.from_numpy(~np.isnan(table.label[mine])))
                )
    return found
