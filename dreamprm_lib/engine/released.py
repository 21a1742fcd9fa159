"""Checkpoints of the original project: `reward_model_step_*.pt`, a state dict of a causal LM under LoRA with a head.

The file is read with `weights_only`, so nothing in it runs.  Rank and modules are read from the tensors; alpha stands
nowhere in them and is 16 in the original's settings.
"""

import pickle
import re
from pathlib import Path

import torch

from dreamprm_lib.engine.backbone import Template, Tuning, fast_dtype, open_model
from dreamprm_lib.errors import WeightsError

TEMPLATE = Template(
    "<task>\nPlatform: {platform}\nQuestion ID: {id}\nTitle: {title}\n</task>\n\n"
    "<problem>\n{content}\n</problem>\n\n<starter_code>\n",
    "\n</starter_code>",
)
_LORA = re.compile(r"lm\.base_model\.model\.model\.(.+)\.lora_([AB])\.default\.weight")
_BASE = re.compile(r"lm\.base_model\.model\.model\.(.+?)(\.base_layer)?\.weight")


def read_released(path: Path | str, backbone: str, alpha: float) -> tuple[Tuning, torch.Tensor, float]:
    """The tuning, and the head's weight [width] and bias, of a released checkpoint.

    `backbone` is the model that it was trained on.  Raises `WeightsError` for a file that is cut short, holds more than
    tensors, has another layout, ranks that do not fit, or the weights of another backbone.
    """
    state = _state(Path(path))
    try:
        weight, bias = state["reward_head.weight"], state["reward_head.bias"]
    except KeyError as error:
        raise WeightsError(f"{path} has no {error.args[0]}: it is no reward model of the original project.") from error
    matrices = {_LORA.sub(r"lora.\1.\2", name): t.float() for name, t in state.items() if _LORA.fullmatch(name)}
    tuning = Tuning.of_tensors(matrices, alpha, path)
    if tuning is None:
        raise WeightsError(f"{path} has no LoRA matrices under `lm.base_model.model.model`: it has another layout.")
    _refuse_another_backbone(path, state, backbone)
    return tuning, weight[0].double(), float(bias[0])


def _state(path: Path) -> dict[str, torch.Tensor]:
    """The state dict, out of a whole training state and of DDP's prefix if need be."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"There is no checkpoint {path}.") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, or is no checkpoint, and was not read. Save its state dict alone, with "
            "`torch.save(model.state_dict(), path)`."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise WeightsError(f"{path} is cut short or damaged ({error}). Fetch it again.") from error
    if isinstance(state, dict) and isinstance(state.get("module"), dict):
        state = state["module"]
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise WeightsError(f"{path} is no state dict of tensors.")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _refuse_another_backbone(path: Path | str, state: dict[str, torch.Tensor], backbone: str) -> None:
    """Raise `WeightsError` unless the base weights in the file are those of the backbone."""
    own = dict(open_model.__wrapped__(backbone, fast_dtype())[1].named_parameters())
    for name, tensor in state.items():
        found = _BASE.fullmatch(name)
        if not found or ".lora_" in name:
            continue
        mine = own.get(f"{found[1]}.weight", torch.empty(0)).float().cpu()
        if mine.shape != tensor.shape or not torch.allclose(mine, tensor.float(), 1e-2, 1e-6):  # bfloat16 rounds
            raise WeightsError(
                f"{path} was trained on another backbone than {backbone}: {found[1]} differs. Name the one that it was "
                "trained on."
            )
