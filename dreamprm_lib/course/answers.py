"""The answers in one notebook, checked in a process that a loop without an end cannot hold up.

It is no sandbox: what a student wrote runs with the rights of whoever grades.  Little is imported here, since a class
has many notebooks.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from dreamprm_lib.course.exercises import Answer, check, exercises, hint

PASSED, WAITING = "passed", "not attempted"


class TimeUp(BaseException):
    """The time of a cell is up; no `Exception`, so that neither a check nor a student's `except` takes it for one."""


def main() -> None:
    """Answer the cells that standard input holds, a line of JSON each, as soon as it is known."""
    imports, answers, seconds = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what students print goes nowhere
    signal.signal(signal.SIGALRM, _stop)
    exercises()  # read before any answer's time begins
    scope: dict[str, Any] = {}
    for line in imports:
        with suppress(Exception):  # an answer that needs it will say so
            exec(line, scope)
    for name, source in answers.items():
        print(json.dumps([name, _said(source, scope, seconds)]), file=out, flush=True)


def _stop(*_: object) -> None:
    raise TimeUp


def _said(source: str, scope: dict[str, Any], seconds: float) -> str:
    """What the last check in a cell says; the cell has so many seconds."""
    said: list[Answer] = []

    def asked(name: str, answer: Any) -> Answer:
        said.append(check(name, answer))
        return said[-1]

    scope |= {"check": asked, "hint": hint}
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        exec(source, scope)
    except TimeUp:
        return f"no answer within {seconds:g} seconds"
    except BaseException as error:  # a student's cell may raise anything, `SystemExit` too
        return f"raised {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {True: PASSED, None: WAITING}.get(said[-1].right, said[-1].message) if said else "the cell asks no check"


if __name__ == "__main__":
    main()
