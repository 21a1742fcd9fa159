"""The command line: `python -m dreamprm_lib COMMAND`.

`data/commands.yaml` names for each command a function of the library, which is imported when the command is given, gets
the arguments by name, and returns what is printed.
"""

import argparse
import logging
import sys
from importlib import import_module
from pathlib import Path

from dreamprm_lib.engine.files import DATA, from_yaml, read_text
from dreamprm_lib.errors import DreamPRMError, InputError, in_words

TYPES = {"path": Path, "float": float, "int": int}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0 success, 1 a failed run, 2 bad arguments or input."""
    options = vars(_parser().parse_args(arguments))
    debug, verbose, function = (options.pop(name) for name in ("debug", "verbose", "function"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")
    logging.getLogger("dreamprm_lib").setLevel(logging.INFO)
    module, _, name = function.rpartition(".")
    try:
        print(getattr(import_module(f"dreamprm_lib.{module}"), name)(**options))
    except KeyboardInterrupt:
        print("Stopped. What was complete is kept; the same command goes on from there.", file=sys.stderr)
        return 1
    except (DreamPRMError, OSError) as error:
        if debug:
            raise
        print(f"error: {in_words(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dreamprm_lib",
        description="Process reward models for code: a study that runs on a laptop.",
        epilog="DREAMPRM_BASE_URL and DREAMPRM_MODEL in the environment point `run` and `record` at another model: an "
        "OpenAI-compatible API (Ollama, vLLM, llama.cpp, ...) instead of the profile's policy.",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--verbose", action="store_true", help="show what the libraries underneath log")
    known = from_yaml(read_text(DATA / "commands.yaml"), "commands.yaml")
    top = parser.add_subparsers(required=True, metavar="COMMAND")
    groups = {"": top}
    for name, command in known["commands"].items():
        group, _, action = name.rpartition(" ")
        if group not in groups:
            about = known["groups"][group]
            actions = top.add_parser(group, help=about, description=about)
            groups[group] = actions.add_subparsers(required=True, metavar="ACTION")
        mine = groups[group].add_parser(action, help=command["help"], description=command["help"])
        mine.set_defaults(function=command["function"])
        for argument, settings in command.get("arguments", {}).items():
            kind = {"type": TYPES[settings["type"]]} if "type" in settings else {}
            mine.add_argument(argument, **settings | kind)
    return parser


if __name__ == "__main__":
    sys.exit(main())
