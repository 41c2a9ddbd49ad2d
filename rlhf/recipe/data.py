"""Where the records come from."""

from typing import Any, Literal

from pydantic import Field, model_validator

from rlhf.recipe.base import Section
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.preparation import Holdout, Preparation

RecordKind = Literal["sft", "preference", "prompt", "rollout"]
FileFormat = Literal["jsonl", "json", "csv", "tsv", "text", "parquet", "arrow", "hub"]
Shape = Literal[
    "records", "alpaca", "sharegpt", "openai", "transcript", "scored", "rated", "binarized", "rollouts"
]
"""How rows are laid out; docs/data_shapes.md shows each."""


class DataSource(Section):
    """One split: files, or a split of a hub data set. A bare string in the recipe is its `path`."""

    path: str
    """A file, a folder or pattern (`data/*.jsonl.gz`) of files of one format, or a hub data set by name (`owner/name`)."""
    format: FileFormat | None = None
    """How to read it; by the file's suffix where left out (`hub` where no such file exists and the name has the form `owner/name`)."""
    shape: Shape | None = None
    """How its rows are laid out; found by the columns where left out."""
    split: str | None = None
    """The split, such as `train`, of a hub data set or of a saved `DatasetDict`; required there."""
    config: str | None = None
    """The hub data set's configuration."""
    revision: str | None = None
    """The hub data set's commit; pinned in the resolved recipe when the run first resolves it."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Record field -> column of the file, such as `{prompt: question, completion: answer}`."""
    extra: Literal["error", "metadata"] = "error"
    """What to do with columns that no record field has: refuse the row, or keep them under `metadata`."""
    pairs: Literal["best_worst", "best_rest", "all"] = "best_worst"
    """Which pairs scored answers to one prompt make: the best with the worst, the best with each other one, or all that differ."""
    min_margin: float = Field(default=0.0, ge=0)
    """Scored answers make a pair only where their scores differ by at least this; equal scores never do."""
    on_error: Literal["fail", "quarantine"] = "fail"
    """Faulty rows stop the run, or are left out and written with their reasons to `quarantine.<split>.jsonl` in the stage's folder."""
    max_faulty_share: float = Field(default=0.01, ge=0, lt=1)
    """With `on_error: quarantine`, more faulty rows than this share still stop the run."""
    prepare: Preparation = Preparation()
    """What happens to the rows before they are tokenised."""
    mix_in: list["MixedSource"] = Field(default_factory=list["MixedSource"])
    """Other sources mixed in, such as general data beside the domain's, so that the model does not forget."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class MixedSource(DataSource):
    """A source that is mixed into another."""

    share: float = Field(gt=0, lt=1)
    """Share of the mixed split's rows that come from here; drawn with `prepare.seed`."""
    repeat: bool = False
    """Take rows more than once where there are too few; otherwise too few are an error."""


class Splits(Section):
    """A training split and a held-out one."""

    train: DataSource
    """What is trained on."""
    eval: DataSource | None = None
    """Held out: measured, never trained on. Best-checkpoint selection and early stopping need it."""
    holdout: Holdout | None = None
    """Take the held-out split out of `train` instead."""

    @property
    def has_eval(self) -> bool:
        """Whether there is a held-out split, of its own or taken out of `train`."""
        return self.eval is not None or self.holdout is not None


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
    checks: ChecksSection = ChecksSection()
    """Which findings stop a run, and what is looked for."""
