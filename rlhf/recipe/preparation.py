"""What happens to a source's rows before they are tokenised; each step is counted and reproducible."""

from typing import Annotated, Literal

from pydantic import Field

from rlhf.recipe.base import Section, Seed

CleanStep = Literal["nfc", "nfkc", "control", "html", "whitespace"]
Key = Annotated[str, Field(pattern=r"^(prompt|source|metadata\.[^.\s]+)$")]
"""What rows are grouped by: the prompt, the file they come from, or an entry of metadata."""

_CURES: dict[str, tuple[str, ...]] = {"control": ("nul", "control_char"), "html": ("html",)}
"""Step of clean-up -> codes of checks for what it takes out of the texts."""


class Balance(Section):
    """Groups of rows made alike in size."""

    by: Key
    """What makes a group."""
    max_ratio: float = Field(default=1.0, ge=1)
    """The largest group keeps at most so many times the rows of the smallest; which ones is drawn with `seed`."""


class RowWeights(Section):
    """A weight in the loss for each group of rows."""

    by: Key
    """What makes a group."""
    values: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """Group -> factor on the row's own weight; 1 for groups that are not named."""


class Preparation(Section):
    """Steps in the order in which they run: the fields' order here."""

    clean: list[CleanStep] = Field(default_factory=list[CleanStep])
    """Clean-up of every text: Unicode form NFC or NFKC; control characters removed; HTML tags removed and entities resolved; runs of blanks made one and ends trimmed."""
    filler_words: str | None = None
    """A file with a word or phrase a line; each is removed from the texts where it stands as whole words, whatever its case."""
    drop: list[str] = Field(default_factory=list[str])
    """Codes of checks (docs/data_checks.md): rows with such a finding are left out."""
    deduplicate: Literal["none", "exact", "near"] = "none"
    """Leave out rows equal to an earlier one, or nearly equal to one (which covers equal ones)."""
    balance: Balance | None = None
    """Cut large groups down."""
    sample: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep so many rows, or this share of them, drawn with `seed`."""
    weights: RowWeights | None = None
    """Weights that the SFT and reward losses honour."""
    seed: Seed = 0
    """Of what is drawn here; the same rows give the same choice, in whatever order they come."""

    @property
    def codes(self) -> list[str]:
        """Codes of checks whose findings the steps leave out, so that they are no findings any more."""
        repeated = {"none": [], "exact": ["duplicate"], "near": ["duplicate", "near_duplicate"]}
        cured = [code for step in self.clean for code in _CURES.get(step, ())]
        return [*self.drop, *cured, *repeated[self.deduplicate]]


class Holdout(Section):
    """A held-out split taken out of the training source."""

    share: float = Field(gt=0, lt=1)
    """About this share of the groups is held out."""
    by: Key = "prompt"
    """Rows that agree in this go to the same side."""
    seed: Seed = 0
    """Which groups are held out."""
