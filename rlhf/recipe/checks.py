"""Which checks of the data stop a run, and what they look for."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rlhf.recipe.base import Section


def _spell_off(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


Severity = Annotated[Literal["error", "warning", "off"], BeforeValidator(_spell_off)]


class ChecksSection(Section):
    """Checks beyond the rules of the records; docs/data_checks.md lists them all."""

    severity: dict[str, Severity] = Field(default_factory=dict)
    """Code -> error (refuses the row and stops the run), warning (is told) or off. Broken rows stay errors."""
    sensitive_words: str | None = None
    """A file with a word or phrase a line; texts that hold one get `sensitive_word`."""
    max_chars: int = Field(default=100_000, ge=1)
    """Rows with more characters get `over_long`."""
    near_duplicate_similarity: float = Field(default=0.8, gt=0, le=1)
    """Rows that share this much of their words' 3-grams (Jaccard) get `near_duplicate`."""
    max_length_bias: float = Field(default=0.65, ge=0.5, le=1)
    """`length_bias` is found where more than this share of the pairs has the longer answer chosen."""
    max_cut_share: float = Field(default=0.05, ge=0, le=1)
    """`over_length` is told only where more than this share of the rows is too long for the stage."""
