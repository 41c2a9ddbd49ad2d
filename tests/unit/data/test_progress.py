"""Progress is told while a source is read, whatever its format: not only when a file is done."""

import io
import random
import time
from functools import partial
from pathlib import Path

import pytest
from data_corpus.writers import write
from rich.console import Console

from rlhf.data import check, compression, cores, parquet, source, survey
from rlhf.data.bars import data_bars
from rlhf.data.blocks import Block, list_blocks
from rlhf.data.progress import Progress, Told
from rlhf.recipe.data import DataSource, RecordKind

NUM_ROWS = 400


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps as small beside these files as the real ones are beside gigabytes."""
    monkeypatch.setattr(compression, "BUFFER_BYTES", 512)
    monkeypatch.setattr(compression, "PIECE_BYTES", 64)
    monkeypatch.setattr(parquet, "BATCH_ROWS", 20)
    for module in (survey, source):
        monkeypatch.setattr(module, "TOLD_ROWS", 10)


def told(path: Path, kind: RecordKind) -> list[float]:
    shares: list[float] = []
    report = check(DataSource(path=str(path)), kind, checks=None, progress=shares.append)
    assert (report.num_rows, report.num_faults) == (NUM_ROWS, 0)
    return shares


@pytest.mark.parametrize("fmt", ["jsonl", "jsonl.gz", "json", "csv", "tsv.gz", "text", "parquet"])
def test_one_long_file_is_told_row_by_row(fmt: str, tmp_path: Path) -> None:
    noise = random.Random(0)  # which gzip cannot make small
    rows = [{"text": noise.randbytes(50).hex()} for _ in range(NUM_ROWS)]
    shares = told(write(tmp_path, fmt, rows)[0], "sft")
    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert len({share for share in shares if 0.3 < share < 0.9}) >= 2
    assert shares[-1] == 1.0


def test_answers_that_make_pairs_together_are_told_too(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"What is {number // 2}?", "response": f"It is {number}.", "score": number % 2}
        for number in range(NUM_ROWS)
    ]
    shares = told(write(tmp_path, "jsonl", rows)[0], "preference")
    assert shares == sorted(shares)
    assert len({share for share in shares if 0.3 < share < 0.9}) >= 2
    assert shares[-1] == 1.0


def test_parts_count_by_their_size_and_those_behind_as_not_begun() -> None:
    shares: list[float] = []
    progress = Told([10, 30, 60], shares.append)
    progress.tell(0, [0.5])
    progress.tell(0, [1.0, 0.5])
    progress.tell(1, [1.0, 0.5])
    progress.tell(2, [1.0])
    assert shares == [0.05, 0.25, 0.7, 1.0]


def _measured(block: Block, tell: Progress) -> int:
    tell(0.5)
    time.sleep(0.2)
    return block.start


def test_blocks_in_other_processes_are_told_before_they_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"This is the row with the number {number}."} for number in range(NUM_ROWS)]
    path, _ = write(tmp_path, "jsonl", rows)
    blocks = list_blocks(DataSource(path=str(path)), path.stat().st_size // 2)
    assert len(blocks) == 2
    monkeypatch.setattr(cores, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(cores, "TELL_SECONDS", 0.02)
    shares: list[float] = []
    starts: list[int] = []
    beside = cores.on_all_cores(
        _measured,
        blocks,
        lambda _, start: starts.append(start),
        beside=partial(len, rows),
        progress=shares.append,
    )
    assert (beside, starts) == (NUM_ROWS, [block.start for block in blocks])
    assert shares == sorted(shares)
    assert any(abs(share - 0.5) < 0.02 for share in shares[:-2])
    assert shares[-1] == 1.0


def test_bars_are_shown_on_a_terminal_alone() -> None:
    shown: dict[bool, str] = {}
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=80)
        with data_bars(console) as bar:
            tell = bar("rows.jsonl")
            for share in (0.0, 0.37, 1.0):
                tell(share)
        shown[is_terminal] = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]  # a StringIO
    assert "rows.jsonl" in shown[True]
    assert "100%" in shown[True]
    assert shown[False] == ""
