"""The command `serve`: reads its options, and starts the gateway, whose packages are an extra of their own."""

import os
from pathlib import Path
from typing import Any

from dreamprm_lib.engine.schema import row_of
from dreamprm_lib.errors import InputError


def serve_command(policy: str, prm: Path | None, host: str, port: int, key_variable: str, **options: Any) -> str:
    """Serve until a signal ends it.  Raises `InputError` for options that cannot be, and where packages are missing."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # before tqdm is imported: no progress bars of concurrent requests
    try:
        from dreamprm_lib.commands.gateway import ServeSettings, serve
    except ImportError as error:
        raise InputError(f'{error}: the gateway needs packages of its own, pip install -e ".[serve]".') from error
    from dreamprm_lib.reward_model import SMALL_PRM

    said = options | {"most_bytes": 1024 * options.pop("max_kb")}
    settings = row_of(ServeSettings, said, "serve", "option")
    serve(policy, prm or SMALL_PRM, host, port, key_variable, settings)
    return "Stopped."
