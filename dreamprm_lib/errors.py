"""The suite's errors: each message says the value, what was expected, and the fix."""


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
