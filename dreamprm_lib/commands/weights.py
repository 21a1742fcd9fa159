"""The pinned weights, as the command line shows them."""

from __future__ import annotations

from dreamprm_lib.engine.weights import WEIGHTS, verify
from dreamprm_lib.errors import WeightsError


def list_command() -> str:
    """A line a file: its name, size and place."""
    return "\n".join(
        f"{name:40} {file.size / 1e6:6.0f} MB  {file.path if file.is_here else 'missing'}"
        for name, file in WEIGHTS.items()
    )


def verify_command() -> str:
    """A line a file here: its name and state.  Raises `WeightsError` if one is not the pinned file."""
    states = verify()
    if wrong := [name for name, state in states if state == "wrong digest"]:
        raise WeightsError(f"{', '.join(wrong)}: not the pinned file. Delete it and fetch it again.")
    return "\n".join(f"{name}  {state}" for name, state in states)
