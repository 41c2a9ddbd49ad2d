"""SFT and preference splits as token sequences, from the workspace's cache or into it."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

import rlhf
from rlhf.durable import write_atomic
from rlhf.errors import DataError
from rlhf.models.tokenizer import chat_template_digest, tokenizer_digest
from rlhf.recipe.recipe import digest_of
from rlhf.recipe.training import TrainingSection
from rlhf.stages.tokens.cache import shared_folder
from rlhf.stages.tokens.encode import encode_rows
from rlhf.stages.tokens.encoders import Demonstration, Pair, demonstration_encoder, pair_encoder
from rlhf.stages.tokens.outcome import Encoder, Verdict
from rlhf.stages.tokens.problems import RowProblems
from rlhf.stages.tokens.rows import (
    DEMONSTRATIONS,
    PAIRS,
    Layout,
    Row,
    TokenRows,
    is_whole,
    read_rows,
    write_rows,
)
from rlhf.stages.tokens.splits import Split, prepared
from rlhf.stages.tokens.template import prove_template

FORMAT_VERSION = 1
"""Of the cached files; counted up where the same key would mean other content."""
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
        cache: a folder of any number of splits; see `token_cache`.

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
    identity = split.identity()
    folder = shared_folder(
        cache,
        _key(identity, encoder),
        lambda writing: _build(writing, split, identity, encoder, section, layout),
        is_whole=is_whole,
    )
    _restore_quarantine(folder, split)
    dataset, facts = read_rows(folder)
    counts = {name: facts[name] for name in ("num_dropped", "num_truncated", "has_weights", "prepared")}
    return Examples(TokenRows(dataset, layout.row), **counts)


def _key(identity: dict[str, Any], encoder: Encoder[Any]) -> str:
    packages = ("transformers", "tokenizers")
    return digest_of(
        {
            "format": FORMAT_VERSION,
            "code": [rlhf.__version__, *(version(package) for package in packages)],
            "split": identity,
            "encoder": encoder.describe(),
            "tokenizer": tokenizer_digest(encoder.tokenizer),
            "template": chat_template_digest(encoder.tokenizer),
        }
    )


def _build(
    folder: Path,
    split: Split,
    identity: dict[str, Any],
    encoder: Encoder[Row],
    section: TrainingSection,
    layout: Layout[Row],
) -> None:
    for stale in split.quarantined():
        stale.unlink(missing_ok=True)
    rows = split.rows()
    problems = RowProblems(
        "max_length", section.max_length, section.over_length, REMEDIES, split.checks.severity
    )
    has_weights = False

    def usable() -> Iterator[Row]:
        nonlocal has_weights
        proved = prove_template(rows, encoder.tokenizer, chat=split.chat)
        for place, outcome in encode_rows(proved, encoder):
            problems.add(place, outcome)
            if outcome.row is not None and not problems:
                has_weights = has_weights or getattr(outcome.row, "weight", 1.0) != 1.0
                yield outcome.row
        problems.raise_found()

    def facts() -> dict[str, Any]:
        _check_left(problems, section.max_length)
        _check_unchanged(split, identity)
        return {
            "num_dropped": problems.num_dropped,
            "num_truncated": problems.counts["truncated"],
            "has_weights": has_weights,
            "prepared": prepared(rows),
        }

    write_rows(folder, usable(), layout, facts)
    for path in split.quarantined():
        (folder / path.name).write_bytes(path.read_bytes())


def _restore_quarantine(folder: Path, split: Split) -> None:
    """Where another run has built the tokens: its faulty rows, under this run's stage too, and no others."""
    if split.quarantine is None:
        return
    kept = {path.name: path.read_bytes() for path in folder.glob("quarantine.*")}
    for stale in split.quarantined():
        if stale.name not in kept:
            stale.unlink(missing_ok=True)
    for name, content in kept.items():
        target = split.quarantine.parent / name
        if not target.is_file() or target.read_bytes() != content:
            write_atomic(target, content)


def _check_left(problems: RowProblems, limit: int) -> None:
    if problems.counts["whole"] + problems.counts["truncated"] == 0:
        raise DataError(
            f"no row is left: all are longer than max_length={limit}, equal pairs within it, or cannot be encoded",
            "Raise max_length.",
        )


def _check_unchanged(split: Split, identity: dict[str, Any]) -> None:
    """Tokens under the digest of other rows would be taken for those by every later run."""
    if split.identity() != identity:
        raise DataError(
            f"data.{split.read.key} ({split.read.source.path}) was changed while it was read",
            "Run again when nobody writes it.",
        )
