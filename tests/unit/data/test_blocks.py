"""Blocks of files, moved to where they lie, are the file."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.blocks import Block, BlockReader, list_blocks, move
from rlhf.data.fault import Fault, make_fault
from rlhf.data.place import Place, Row
from rlhf.data.source import read_rows
from rlhf.recipe.data import DataSource

PIECES = [
    b'{"prompt": "a"}',
    b'{"prompt": "' + "é☃".encode() * 9 + b'"}',
    b'{"prompt": "a"',
    b"{}",
    b"[1]",
    b"caf\xe9",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"",
    b"  ",
    b"\n",
    b"\r\n",
    b"\r",
    b"\n\n",
]


def in_blocks(source: DataSource, block_bytes: int) -> list[Row | Fault]:
    items: list[Row | Fault] = []
    path, lines, rows = None, 0, 0
    for block in list_blocks(source, block_bytes):
        if block.path != path:
            path, lines, rows = block.path, 0, 0
        reader = BlockReader(block)
        items += [move(item, lines, rows) for item in reader]
        lines += reader.num_lines
        rows += reader.num_rows
    return items


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blocks")


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=30),
    block_bytes=st.integers(1, 90),
    suffix=st.sampled_from([".jsonl", ".txt"]),
)
def test_a_file_read_in_blocks_is_the_file_read_at_once(
    folder: Path, pieces: list[bytes], block_bytes: int, suffix: str
) -> None:
    path = folder / f"x{suffix}"
    path.write_bytes(b"".join(pieces))
    source = DataSource(path=str(path))
    blocks = list_blocks(source, block_bytes)
    content = path.read_bytes()
    parts = [content[block.start : block.stop] for block in blocks]
    assert b"".join(parts) == content
    assert all(part.endswith(b"\n") for part in parts[:-1])
    assert in_blocks(source, block_bytes) == list(read_rows(source))


def test_blocks_have_about_the_size_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n": 1}\n' * 100)  # nine bytes a line
    assert list_blocks(DataSource(path=str(path)), 300) == [
        Block(path, "jsonl", 0, 306),
        Block(path, "jsonl", 306, 612),
        Block(path, "jsonl", 612, None),
    ]
    reader = BlockReader(Block(path, "jsonl", 306, 612))
    places = [item.place for item in reader if isinstance(item, Row)]
    assert places == [Place(str(path), line, line) for line in range(1, 35)]
    assert (reader.num_lines, reader.num_rows) == (34, 34)


def test_other_formats_and_archives_are_one_block_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n" + "b\n" * 99)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 99))
    for name, fmt in (("x.csv", "csv"), ("x.jsonl.gz", "jsonl")):
        path = tmp_path / name
        assert list_blocks(DataSource(path=str(path)), 10) == [Block(path, fmt)]
        reader = BlockReader(Block(path, fmt))
        assert len(list(reader)) == 99
        assert reader.num_rows == 99


@pytest.mark.parametrize(
    ("text", "num_rows"),
    [
        ("[]", 0),
        ("[ \n]", 0),
        ("", 0),
        ("[{}]", 1),
        ("[{},,{}]", 3),
        ("[{} {}]", 2),
        ("[{},{", 2),
        ("{}\n{}", 2),
    ],
)
def test_the_rows_of_a_json_file_are_counted_once_each(tmp_path: Path, text: str, num_rows: int) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    reader = BlockReader(Block(path, "json"))
    list(reader)
    assert reader.num_rows == num_rows


def test_blocks_of_several_files_follow_each_other(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        (tmp_path / f"{number}.jsonl").write_text('{"n": 1}\n{"n"\n\n' * number)
    source = DataSource(path=str(tmp_path))
    assert in_blocks(source, 20) == list(read_rows(source))
    assert len(in_blocks(source, 20)) == 26


def test_a_hub_data_set_and_a_faulty_source_have_no_blocks(tmp_path: Path) -> None:
    assert list_blocks(DataSource(path="owner/name", split="train")) == []
    assert list_blocks(DataSource(path=str(tmp_path / "none.jsonl"))) == []


def test_moving_leaves_what_has_no_line_or_row() -> None:
    assert move(Place("x", None, 2), 5, 7) == Place("x", None, 9)
    assert move(Place("x"), 5, 7) == Place("x")
    fault = move(make_fault("empty", Place("x", 1), "has no rows"), 5, 7)
    assert (fault.line, fault.row) == (6, None)
    assert move(Row({"a": 1}, Place("x", 1, 1)), 5, 7) == Row({"a": 1}, Place("x", 6, 8))
