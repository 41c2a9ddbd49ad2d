"""What encoding one record came to."""

from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

Row = TypeVar("Row", covariant=True)
OverLength = Literal["error", "drop", "truncate"]
Verdict = Literal["whole", "truncated", "too_long", "equal", "no_label", "refused"]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Row]):
    """One record as tokens, or why there are none."""

    verdict: Verdict
    """too_long: longer than the limit, and not to be cut (or cutting does not help); equal: a pair whose answers are
    the same within the limit; no_label: cut before its first label; refused: by chat template or vocabulary."""
    row: Row | None = None
    """Of `whole` and `truncated` alone."""
    length: int = 0
    """Tokens before any cut; 0 where refused."""
    message: str = ""
    """Why it was refused."""
    remedy: str | None = None
    """What to do about that."""


class Encoder(Protocol[Row]):
    """Makes an outcome of a record; can be pickled, since other processes use it too."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def __call__(self, record: Any) -> Outcome[Row]:
        """Encode under the length rule; never raises a DataError."""
        ...

    def describe(self) -> dict[str, Any]:
        """All that decides what comes out, the tokenizer apart, as JSON has it."""
        ...
