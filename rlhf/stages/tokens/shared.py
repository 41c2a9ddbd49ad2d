"""A split's rows as tokens, from the workspace's cache or into it, whatever the rows are."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import rlhf
from rlhf.durable import write_atomic
from rlhf.errors import DataError
from rlhf.models.tokenizer import chat_template_digest, tokenizer_digest
from rlhf.recipe.recipe import digest_of
from rlhf.stages.tokens.cache import shared_folder
from rlhf.stages.tokens.encode import encode_rows
from rlhf.stages.tokens.outcome import Encoder
from rlhf.stages.tokens.problems import RowProblems
from rlhf.stages.tokens.rows import Layout, TokenRows, is_whole, read_rows, write_rows
from rlhf.stages.tokens.splits import Split, prepared
from rlhf.stages.tokens.template import prove_template

FORMAT_VERSION = 1
"""Of the cached files; counted up where the same key would mean other content."""
TOLD_SECONDS = 30.0
"""How often a build says how far it is."""
Encoded = TypeVar("Encoded")
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Encoding(Generic[Encoded, Kept]):
    """How a split becomes rows.

    Attributes:
        encoder: a record to tokens.
        problems: counts its outcomes; made anew for a build.
        keep: a record's number in the split, from 0, and its tokens to the row that is kept.
        layout: how rows are written.
        nothing_left: the error where no row is kept.
    """

    encoder: Encoder[Encoded]
    problems: Callable[[], RowProblems]
    keep: Callable[[int, Encoded], Kept]
    layout: Layout[Kept]
    nothing_left: DataError


def cached_rows(
    split: Split, encoding: Encoding[Encoded, Kept], cache: Path
) -> tuple[TokenRows[Kept], dict[str, Any]]:
    """The rows, read from the disk as they are asked for, and what is known of them.

    The facts: `num_dropped` and `num_truncated` by the length rule, `has_weights` (whether a row's weight is not 1),
    and `prepared`, what was done to the rows before, for people.

    Args:
        split: what is read; its faulty rows are written for this run too where another one has built the tokens.
        encoding: how.
        cache: a folder of any number of splits.

    Raises:
        DataError: invalid rows, and rows that `problems` makes an error of.
    """
    identity = split.identity()
    folder = shared_folder(
        cache,
        _key(identity, encoding.encoder),
        lambda writing: _build(writing, split, identity, encoding),
        is_whole=is_whole,
    )
    _restore_quarantine(folder, split)
    dataset, facts = read_rows(folder)
    return TokenRows(dataset, encoding.layout.row), facts


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


def _build(folder: Path, split: Split, identity: dict[str, Any], encoding: Encoding[Encoded, Kept]) -> None:
    for stale in split.quarantined():
        stale.unlink(missing_ok=True)
    rows, encoder, problems = split.rows(), encoding.encoder, encoding.problems()
    has_weights, told = False, time.monotonic()

    def usable() -> Iterator[Kept]:
        nonlocal has_weights, told
        proved = prove_template(rows, encoder.tokenizer, chat=split.chat)
        for index, (place, outcome) in enumerate(encode_rows(proved, encoder)):
            problems.add(place, outcome)
            if time.monotonic() - told >= TOLD_SECONDS:
                told = time.monotonic()
                print(f"{split.read.key}: {index + 1:,} rows as tokens so far", flush=True)
            if outcome.row is not None and not problems:
                has_weights = has_weights or getattr(outcome.row, "weight", 1.0) != 1.0
                yield encoding.keep(index, outcome.row)
        problems.raise_found()

    def facts() -> dict[str, Any]:
        if problems.counts["whole"] + problems.counts["truncated"] == 0:
            raise encoding.nothing_left
        _check_unchanged(split, identity)
        return {
            "num_dropped": problems.num_dropped,
            "num_truncated": problems.counts["truncated"],
            "has_weights": has_weights,
            "prepared": prepared(rows),
        }

    write_rows(folder, usable(), encoding.layout, facts)
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


def _check_unchanged(split: Split, identity: dict[str, Any]) -> None:
    """Tokens under the digest of other rows would be taken for those by every later run."""
    if split.identity() != identity:
        raise DataError(
            f"data.{split.read.key} ({split.read.source.path}) was changed while it was read",
            "Run again when nobody writes it.",
        )
