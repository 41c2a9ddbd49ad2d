"""SFT and preference splits as token sequences, from the workspace's cache or into it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rlhf.errors import DataError
from rlhf.recipe.training import TrainingSection
from rlhf.stages.tokens.encoders import Demonstration, Pair, demonstration_encoder, pair_encoder
from rlhf.stages.tokens.outcome import Encoder, Verdict
from rlhf.stages.tokens.problems import RowProblems
from rlhf.stages.tokens.rows import DEMONSTRATIONS, PAIRS, Layout, Row, TokenRows
from rlhf.stages.tokens.shared import Encoding, cached_rows
from rlhf.stages.tokens.splits import Split

REMEDIES: dict[Verdict, str] = {
    "no_label": "Raise max_length, shorten these prompts, or set over_length: drop.",
    "too_long": "Raise it, or set over_length to drop or truncate.",
}


@dataclass(frozen=True)
class Examples(Generic[Row]):
    """A split as tokens, and how many rows its length rule touched.

    Attributes:
        rows: in the order of the split, read from the disk as they are asked for.
        num_dropped, num_truncated: rows that were too long.
        has_weights: whether a row's weight is not 1.
        prepared: what was done to the split's rows before, for people.
    """

    rows: TokenRows[Row]
    num_dropped: int = 0
    num_truncated: int = 0
    has_weights: bool = False
    prepared: str = ""

    @property
    def dataset(self) -> Dataset:
        """The rows' columns."""
        return self.rows.dataset

    def __str__(self) -> str:
        too_long = f"{self.num_dropped} dropped, {self.num_truncated} truncated"
        return f"{self.prepared}{len(self.rows)} rows; too long: {too_long}"


def demonstrations(
    tokenizer: PreTrainedTokenizerBase, split: Split, section: TrainingSection, *, cache: Path
) -> Examples[Demonstration]:
    """The SFT split as tokens.

    Args:
        tokenizer: what the tokens are of.
        split: what is read.
        section: length and the rule for longer rows.
        cache: a folder of any number of splits; see `token_folder`.

    Raises:
        DataError: invalid rows; rows that the template refuses; rows too long (under `error`), or left without a
            label by truncation. Each names file and line.
    """
    encoder = demonstration_encoder(tokenizer, section, chat=split.chat)
    return _examples(split, encoder, section, DEMONSTRATIONS, cache)


def pairs(
    tokenizer: PreTrainedTokenizerBase, split: Split, section: TrainingSection, *, cache: Path
) -> Examples[Pair]:
    """The preference split as tokens; a pair that truncation makes equal is dropped and counted.

    Args, raises: as `demonstrations`.
    """
    encoder = pair_encoder(tokenizer, section, chat=split.chat)
    return _examples(split, encoder, section, PAIRS, cache)


def _examples(
    split: Split, encoder: Encoder[Row], section: TrainingSection, layout: Layout[Row], cache: Path
) -> Examples[Row]:
    limit, rule = section.max_length, section.over_length
    nothing_left = DataError(
        f"no row is left: all are longer than max_length={limit}, equal pairs within it, or cannot be encoded",
        "Raise max_length.",
    )

    def problems() -> RowProblems:
        return RowProblems("max_length", limit, rule, REMEDIES, split.checks.severity)

    encoding = Encoding(encoder, problems, lambda _, row: row, layout, nothing_left)
    rows, facts = cached_rows(split, encoding, cache)
    counts = {name: facts[name] for name in ("num_dropped", "num_truncated", "has_weights", "prepared")}
    return Examples(rows, **counts)
