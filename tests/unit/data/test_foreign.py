"""A file that is something else than its name says is one fault with the way out, in every format and size."""

import bz2
import gzip
import json
import lzma
from functools import partial
from pathlib import Path

import pytest
import zstandard
from data_corpus.clean_rows import CLEAN
from data_corpus.writers import write

from rlhf.data import check, survey
from rlhf.data.blocks import list_blocks
from rlhf.recipe.data import DataSource

LINES = b"".join(json.dumps(dict(row)).encode() + b"\n" for row in CLEAN["prompt"].rows)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"
TEXTS = ("jsonl", "json", "csv", "tsv", "txt")
OTHERS = {
    "pointer": (POINTER, (*TEXTS, "parquet", "arrow", "jsonl.gz"), "git lfs pull"),
    "page": (PAGE, ("jsonl", "json", "csv", "tsv", "parquet", "csv.gz"), "Download the file itself"),
    "gzip": (gzip.compress(LINES), (*TEXTS, "jsonl.zst"), ".gz, or unpack it"),
    "zstd": (zstandard.ZstdCompressor().compress(LINES), (*TEXTS, "jsonl.gz"), ".zst, or unpack it"),
    "packed table": (gzip.compress(LINES), ("parquet", "arrow"), "Unpack it"),
    "zip": (b"PK\x03\x04\x14\0\0\0\x08\0", (*TEXTS, "jsonl.gz"), "Unpack it"),
    "bzip2": (bz2.compress(LINES), TEXTS, "Unpack it"),
    "xz": (lzma.compress(LINES), TEXTS, "Unpack it"),
}


def found(path: Path, fmt: str | None = None) -> list[tuple[str, str, int | None]]:
    source = DataSource.model_validate({"path": str(path), "format": fmt})
    return [(fault.code, fault.remedy, fault.line) for fault in check(source, "prompt").faults]


@pytest.mark.parametrize("name", OTHERS)
def test_other_content_is_one_fault_with_the_way_out(name: str, tmp_path: Path) -> None:
    content, suffixes, remedy = OTHERS[name]
    for suffix in suffixes:
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(content)
        ((code, told, line),) = found(path)
        assert (code, line) == ("other_content", None), suffix
        assert remedy in told, suffix


def test_tables_under_a_texts_name_are_told_with_their_format(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "parquet", CLEAN["prompt"].rows)
    ((code, told, _),) = found(path, "jsonl")
    assert (code, "--format) to parquet" in told) == ("other_content", True)
    assert found(path) == []


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_file_of_wide_characters_is_one_fault(encoding: str, tmp_path: Path) -> None:
    text = "\ufeff" + LINES.decode()
    name = encoding[:6].upper()
    for suffix in TEXTS:
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(text.encode(encoding))
        ((code, told, line),) = found(path)
        assert (code, line) == ("not_utf8", 1), suffix
        assert f"iconv -f {name} -t UTF-8" in told, suffix


def test_a_long_file_of_other_content_is_not_cut_into_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(POINTER + LINES)
    monkeypatch.setattr(survey, "list_blocks", partial(list_blocks, block_bytes=50))
    assert [code for code, _, _ in found(path)] == ["other_content"]


def test_a_page_in_lines_of_text_is_text(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(PAGE)
    report = check(DataSource(path=str(path)), "prompt")
    assert (report.num_records, set(report.counts)) == (2, {"html"})
