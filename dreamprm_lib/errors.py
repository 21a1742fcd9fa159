"""The suite's errors: each message says the value, what was expected, and the fix."""

import errno
import re
from pathlib import Path

FULL = "no space is left there. Free some, then give the same command again: what was complete is kept"
CLOSED = "nothing may be written there. Change the permissions, or choose another folder"
FIXES = {errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EACCES: CLOSED, errno.EPERM: CLOSED, errno.EROFS: CLOSED}


def in_words(text: str) -> str:
    """A message in which errors of the operating system (`[Errno 28] No space left on device: 'x'`) say what is wrong
    with which place, and what to do."""

    def said(found: re.Match) -> str:
        path = Path(found[4] or ".")
        place = path.parent if path.suffix == ".tmp" else path  # the folder of a temporary file says more
        return f"{place if found[4] else 'On this disk'}: {FIXES.get(int(found[1]), found[2].lower())}"

    return re.sub(r"\[Errno (\d+)\] ([^:\n]+)(: '([^'\n]*)'(?: -> '[^'\n]*')?)?", said, text)


class DreamPRMError(Exception):
    """Root of every error that the suite raises on purpose."""


class InputError(DreamPRMError):
    """A file, argument or parameter that the user gave cannot be used."""


class MissingCompletion(DreamPRMError):
    """A completion is neither recorded nor stored, and no model may be asked."""


class PolicyError(DreamPRMError):
    """The policy's endpoint failed or answered with nonsense."""


class BudgetSpent(DreamPRMError):
    """The policy's budget does not cover what is still missing; what was paid for is stored."""


class SandboxError(DreamPRMError):
    """The sandbox itself failed: a worker can't be started, or doesn't isolate as it said."""


class ClusterError(DreamPRMError):
    """The workers of a cluster kept dying over a task."""


class WeightsError(DreamPRMError):
    """Model weights are missing, incomplete or not the pinned ones."""


class StudyError(DreamPRMError):
    """A chapter lacks an artefact of an earlier one, or a stage failed."""
