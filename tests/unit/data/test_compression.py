"""gzip and zstd: the same rows as from the plain file, and all rows before a break."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from rlhf.data.fault import Fault
from rlhf.data.place import Row
from rlhf.data.source import read_rows
from rlhf.recipe.data import DataSource

CHECKED = zstandard.ZstdCompressor(write_checksum=True)
PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": CHECKED.compress}
PLAIN = {
    "jsonl": '{"prompt": "é"}\n\n{"prompt": "b"}\n',
    "json": '[{"prompt": "é"},\n\n{"prompt": "b"}]',
    "csv": "prompt\né\nb\n",
    "tsv": "prompt\né\nb\n",
    "txt": "é\nb\n",
}


def read(path: Path) -> tuple[list[tuple[int | None, dict[str, object]]], list[tuple[str, int | None]]]:
    """(line, values) of the rows, (code, line) of the faults."""
    items = list(read_rows(DataSource(path=str(path))))
    rows = [(item.place.line, item.values) for item in items if isinstance(item, Row)]
    return rows, [(item.code, item.line) for item in items if isinstance(item, Fault)]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("fmt", PLAIN)
def test_a_packed_file_gives_the_rows_of_the_plain_one(tmp_path: Path, fmt: str, suffix: str) -> None:
    plain, packed = tmp_path / f"x.{fmt}", tmp_path / f"x.{fmt}{suffix}"
    plain.write_text(PLAIN[fmt], encoding="utf-8")
    packed.write_bytes(PACK[suffix](PLAIN[fmt].encode()))
    rows, faults = read(packed)
    assert [list(values.values()) for _, values in rows] == [["é"], ["b"]]
    assert (rows, faults) == read(plain)


@pytest.mark.parametrize("suffix", PACK)
def test_members_that_follow_each_other_are_one_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.txt{suffix}"
    pack = PACK[suffix]
    path.write_bytes(pack(b"one\ntw") + pack(b"") + pack(b"o\n") + (b"\0" * 9 if suffix == ".gz" else b""))
    assert read(path) == ([(1, {"text": "one"}), (2, {"text": "two"})], [])


def test_zstd_frames_that_hold_no_data_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.txt.zst"
    skippable = bytes.fromhex("502a4d18") + (4).to_bytes(4, "little") + b"abcd"
    path.write_bytes(skippable + CHECKED.compress(b"one\n") + skippable)
    assert read(path) == ([(1, {"text": "one"})], [])


@pytest.mark.parametrize("suffix", PACK)
def test_a_wrong_check_sum_keeps_no_row_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.txt{suffix}"
    packed = bytearray(PACK[suffix](b"one\ntwo\n"))
    packed[-5 if suffix == ".gz" else -1] ^= 1  # gzip: the sum stands before four bytes of length
    path.write_bytes(packed)
    assert read(path) == ([(1, {"text": "one"}), (2, {"text": "two"})], [("bad_compression", 3)])


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("fmt", ["jsonl", "json", "csv"])
def test_a_cut_file_gives_the_rows_before_the_cut(tmp_path: Path, fmt: str, suffix: str) -> None:
    # hashes do not compress, so that about half of the rows lie before the middle
    texts = [f"{number:05}" + "".join(f"{hash((number, i)):x}" for i in range(8)) for number in range(20_000)]
    if fmt == "csv":
        plain = "prompt\n" + "".join(f"{text}\n" for text in texts)
    else:
        lines = [json.dumps({"prompt": text}) for text in texts]
        plain = "[\n" + ",\n".join(lines) + "\n]" if fmt == "json" else "\n".join(lines) + "\n"
    packed = PACK[suffix](plain.encode())
    path = tmp_path / f"x.{fmt}{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    rows, faults = read(path)
    assert 7000 < len(rows) < 13_000
    assert [values["prompt"] for _, values in rows] == texts[: len(rows)]
    # the row in which the cut lies is not given
    last_line = rows[-1][0]
    assert last_line is not None
    assert faults == [("bad_compression", last_line + 1)]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("content", [b"", b"plain text\n", b"\0\0\0\0"])
def test_a_file_that_is_no_archive_is_one_fault(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(content)
    assert read(path) == ([], [("bad_compression", 1)])


@pytest.mark.parametrize("suffix", PACK)
def test_what_follows_the_archive_is_a_fault(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.txt{suffix}"
    path.write_bytes(PACK[suffix](b"one\n") + b"more than this")
    assert read(path) == ([(1, {"text": "one"})], [("bad_compression", 2)])


def test_packed_parquet_has_no_format(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet.gz"
    path.write_bytes(gzip.compress(b"x"))
    assert read(path) == ([], [("unknown_format", None)])
