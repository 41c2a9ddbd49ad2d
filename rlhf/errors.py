"""What a user can cause, each with its place and its remedy; only the CLI prints these and exits."""


class RLHFError(Exception):
    """Base of every error that a user can cause.

    Args:
        message: what is wrong and where (file and line, field, value).
        remedy: what to do next, one sentence; printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}\n  {self.remedy}"


class UsageError(RLHFError):
    """A wrong call: an unknown stage, a path that does not exist, a workspace that cannot be written."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be run; lists every fault with its path in the file and its line."""


class DataError(RLHFError):
    """Rows that break their record's rules; lists every fault with file, line, field, value and remedy."""


class RegistryError(RLHFError):
    """A reference that does not resolve, or an artefact whose bytes are not those that were published."""


class ModelError(RLHFError):
    """A model or tokenizer that cannot be loaded, or whose weights are missing or not as published."""


class CheckpointError(RLHFError):
    """A checkpoint that lacks a piece of state, or does not belong to this run."""


class LockError(RLHFError):
    """Another live process owns the run."""


class StageError(RLHFError):
    """A stage that died; carries the log's end and the command that resumes it."""


class TrainingError(RLHFError):
    """Training that must not go on: a non-finite loss, a ratio that is not 1 at the start."""
