"""Where the records come from."""

from typing import Any, Literal

from pydantic import Field, model_validator

from rlhf.recipe.base import Section

RecordKind = Literal["sft", "preference", "prompt", "rollout"]
FileFormat = Literal["jsonl", "json", "csv", "parquet", "hub"]


class DataSource(Section):
    """One split: a file, or a split of a hub data set. A bare string in the recipe is its `path`."""

    path: str
    """A file, or a hub data set by name (`owner/name`)."""
    format: FileFormat | None = None
    """How to read it; by the file's suffix where left out (`hub` where no such file exists and the name has the form `owner/name`)."""
    split: str | None = None
    """The hub data set's split, such as `train`; required for a hub data set."""
    config: str | None = None
    """The hub data set's configuration."""
    revision: str | None = None
    """The hub data set's commit; pinned in the resolved recipe when the run first resolves it."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Record field -> column of the file, such as `{prompt: question, completion: answer}`."""
    extra: Literal["error", "metadata"] = "error"
    """What to do with columns that no record field has: refuse the row, or keep them under `metadata`."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class Splits(Section):
    """A training split and a held-out one."""

    train: DataSource
    """What is trained on."""
    eval: DataSource | None = None
    """Held out: measured, never trained on. Best-checkpoint selection and early stopping need it."""


class DataSection(Section):
    """The data of each stage; only what the chosen stages need is required."""

    chat: bool = False
    """Wrap text rows as one user turn and one assistant turn, so that the chat template applies to them."""
    sft: Splits | None = None
    """Demonstrations: prompt and completion, or messages."""
    preference: Splits | None = None
    """Pairs: prompt, chosen, rejected."""
    prompts: Splits | None = None
    """Prompts that PPO answers."""
