"""The pinned weights, as the command line shows them."""

from dreamprm_lib.engine.files import file_digest
from dreamprm_lib.engine.weights import WEIGHTS
from dreamprm_lib.errors import WeightsError


def list_command() -> str:
    """A line a file: its name, size and place."""
    return "\n".join(
        f"{name:40} {file.size / 1e6:6.0f} MB  {file.path if file.is_here else 'missing'}"
        for name, file in WEIGHTS.items()
    )


def verify_command() -> str:
    """A line a file here: its name and state.  Raises `WeightsError` if one is not the pinned file."""
    here = {name: file for name, file in WEIGHTS.items() if file.path.is_file()}
    if wrong := [name for name, file in here.items() if file_digest(file.path) != file.sha256]:
        raise WeightsError(f"{', '.join(wrong)}: not the pinned file. Delete it and fetch it again.")
    return "\n".join(f"{name}  {'ok' if name in here else 'missing'}" for name in WEIGHTS)
