"""Programs that nobody has read run here, and are judged by the outputs that they give.

The names of `judge` are also this package's.  They are looked up when they are asked for, because the worker lies in
this package too, and must not load what the judge needs.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module("dreamprm_lib.engine.sandbox.judge"), name)
