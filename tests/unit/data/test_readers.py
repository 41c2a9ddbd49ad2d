"""Each format with broken lines planted at known places, and its clean twin."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rlhf.data.jsonarray
from rlhf.data import Fault
from rlhf.data.place import Row
from rlhf.data.source import READERS

GOOD = '{"prompt": "Hello?", "completion": "Hi."}'


def write(folder: Path, name: str, lines: Sequence[str | bytes], end: bytes = b"\n") -> Path:
    path = folder / name
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    path.write_bytes(b"\n".join(raw) + end)
    return path


def faults(path: Path) -> list[tuple[str, int | None]]:
    items = READERS[path.suffix[1:]](path)  # type: ignore[index]  # the suffixes are the formats' names
    return [(item.code, item.line) for item in items if isinstance(item, Fault)]


def rows(path: Path) -> list[tuple[int | None, int | None]]:
    items = READERS[path.suffix[1:]](path)  # type: ignore[index]  # the suffixes are the formats' names
    return [(item.place.line, item.place.row) for item in items if isinstance(item, Row)]


BROKEN_LINES = [
    ('{"prompt": "a" "completion": "b"}', "bad_json"),
    ('{"prompt": "a", "completion": "b"} x', "bad_json"),
    ('{"prompt": "a", "completion": "b"', "bad_json"),
    ('{"prompt": "a", "completion": "b', "bad_json"),
    ("{'prompt': 'a'}", "bad_json"),
    ('{"prompt": "tab\there"}', "bad_json"),
    ('{"prompt": ' + "[" * 100_000 + "}", "bad_json"),
    ('{"n": ' + "9" * 5000 + "}", "bad_json"),
    (b'{"prompt": "caf\xe9"}', "not_utf8"),
    ('{"prompt": "a", "prompt": "b"}', "duplicate_key"),
    ('{"prompt": "a", "metadata": {"k": 1, "k": 1}}', "duplicate_key"),
    ('{"prompt": "a", "margin": NaN}', "not_finite"),
    ('{"prompt": "a", "margin": -Infinity}', "not_finite"),
    ("[1, 2]", "not_object"),
    ('"text"', "not_object"),
    ("null", "not_object"),
]


@pytest.mark.parametrize(("broken", "code"), BROKEN_LINES)
def test_jsonl_reports_a_broken_line_and_reads_on(tmp_path: Path, broken: str | bytes, code: str) -> None:
    path = write(tmp_path, "x.jsonl", [GOOD, "", broken, GOOD])
    assert faults(path) == [(code, 3)]
    assert rows(path) == [(1, 1), (4, 3)]


def test_jsonl_with_every_kind_of_broken_line_reports_all(tmp_path: Path) -> None:
    lines: list[str | bytes] = []
    for broken, _ in BROKEN_LINES:
        lines += [GOOD, broken]
    path = write(tmp_path, "x.jsonl", lines)
    assert faults(path) == [(code, 2 * index + 2) for index, (_, code) in enumerate(BROKEN_LINES)]


@pytest.mark.parametrize(
    "cut", [b'{"prompt": "a", "comp', b'{"prompt": "a"', b'{"prompt": "\xc3', b'{"a": {"b": 1}', b"{"]
)
def test_jsonl_that_ends_inside_a_row_is_truncated(tmp_path: Path, cut: bytes) -> None:
    assert faults(write(tmp_path, "x.jsonl", [GOOD, cut], end=b"")) == [("truncated", 2)]


def test_jsonl_whose_broken_last_row_is_whole_is_not_truncated(tmp_path: Path) -> None:
    assert faults(write(tmp_path, "x.jsonl", [GOOD, '{"a": 1,}'], end=b"")) == [("bad_json", 2)]


def test_jsonl_without_a_last_line_break_and_with_windows_line_ends_is_clean(tmp_path: Path) -> None:
    path = write(tmp_path, "x.jsonl", [GOOD + "\r", GOOD + "\r", GOOD], end=b"")
    assert faults(path) == []
    assert rows(path) == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x1e"])
def test_only_line_feeds_end_a_line(tmp_path: Path, separator: str) -> None:
    text = json.dumps({"prompt": f"a{separator}b"}, ensure_ascii=False)
    path = write(tmp_path, "x.jsonl", [text, "{"])
    assert faults(path) == [("bad_json", 2)]


@pytest.mark.parametrize(
    ("name", "lines"), [("x.jsonl", [GOOD]), ("x.json", ["[", GOOD, "]"]), ("x.csv", ["prompt", "a"])]
)
def test_a_byte_order_mark_is_a_fault_and_the_rows_are_read(
    tmp_path: Path, name: str, lines: list[str]
) -> None:
    path = write(tmp_path, name, [b"\xef\xbb\xbf" + lines[0].encode(), *lines[1:]])
    assert faults(path) == [("bom", 1)]
    assert len(rows(path)) == 1


def test_a_json_array_has_the_line_where_each_element_starts(tmp_path: Path) -> None:
    text = json.dumps(
        [{"prompt": 'a, ]}[{ \\ "', "completion": "b"}, {"messages": [{"a": {}}, {}]}, {}], indent=2
    )
    path = write(tmp_path, "x.json", text.split("\n"))
    assert faults(path) == []
    # counted by hand: "[" is line 1, the first object has 4 lines, the second 8
    assert rows(path) == [(2, 1), (6, 2), (14, 3)]
    assert [item.values for item in READERS["json"](path) if isinstance(item, Row)] == json.loads(text)


@pytest.mark.parametrize(("broken", "code"), [case for case in BROKEN_LINES if case[1] != "bad_json"])
def test_a_json_array_reports_a_broken_element_and_reads_on(
    tmp_path: Path, broken: str | bytes, code: str
) -> None:
    raw = broken if isinstance(broken, bytes) else broken.encode()
    path = write(tmp_path, "x.json", ["[", GOOD + ",", raw + b",", GOOD, "]"])
    assert faults(path) == [(code, 3)]
    assert rows(path) == [(2, 1), (4, 3)]


@pytest.mark.parametrize(
    ("lines", "expected", "num_good"),
    [
        (["[", GOOD + ",", '{"prompt": "a" "b": 1},', GOOD, "]"], [("bad_json", 3)], 2),
        (["[", GOOD + ",", '{"prompt": "a",', GOOD + ",", GOOD, "]"], [("bad_json", 3)], 3),
        (["[", GOOD + ",", '{"prompt": "a', GOOD + ",", GOOD, "]"], [("bad_json", 3)], 3),
        (["[", '{"messages": [{"role": "user"}},', GOOD, "]"], [("bad_json", 2)], 1),
        (["[", '{"prompt": "a, "completion": "b"},', GOOD + ",", GOOD, "]"], [("bad_json", 2)], 2),
        (["[", '{"prompt": "two', 'lines"},', GOOD, "]"], [("bad_json", 2)], 1),
        (["[", GOOD, GOOD, "]"], [("bad_json", 2)], 2),
        (["[", GOOD + ",", ",", GOOD, "]"], [("bad_json", 3)], 2),
        (["[", GOOD + ",", "]"], [("bad_json", 3)], 1),
        (["[", GOOD, "]", "more"], [("bad_json", 4)], 1),
        (["[", GOOD + ",", '{"prompt": "a'], [("truncated", 3)], 1),
        (["[", GOOD + ",", '{"prompt": "a", "completion": "b"'], [("truncated", 3)], 1),
        (["[", GOOD], [("truncated", 2)], 1),
        (["[", GOOD + ","], [("truncated", 2)], 1),
    ],
)
def test_a_broken_array_loses_the_broken_element_alone(
    tmp_path: Path, lines: list[str], expected: list[tuple[str, int]], num_good: int
) -> None:
    path = write(tmp_path, "x.json", lines)
    assert faults(path) == expected
    assert len(rows(path)) == num_good


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 64])
def test_a_minified_array_is_read_in_pieces(
    tmp_path: Path, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rlhf.data.jsonarray, "PIECE_BYTES", piece_bytes)
    values = [{"a": 'quote " and \\ and é ☃'}, {"b": {"c": [{}, "]},{"]}}, {"d": "\\"}]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    assert [item.values for item in READERS["json"](path) if isinstance(item, Row)] == values
    assert faults(path) == []


def test_a_json_file_with_an_object_a_line_is_read_as_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "x.json", [GOOD, '{"prompt": }', GOOD])
    assert rows(path) == [(1, 1), (3, 3)]
    assert faults(path) == [("bad_json", 2)]


@pytest.mark.parametrize("lines", [["", "{", '"data": []', "}"], ["", "hello"], ["", '"text"']])
def test_a_json_file_that_is_no_array_is_one_fault(tmp_path: Path, lines: list[str]) -> None:
    assert faults(write(tmp_path, "x.json", lines)) == [("not_array", 2)]


def test_csv_rows_have_the_line_where_they_start(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", ["prompt,completion", 'a,"two', 'lines"', "", 'b,"quoted ""x"", comma"'])
    assert rows(path) == [(2, 1), (5, 2)]
    assert faults(path) == []
    assert [item.values for item in READERS["csv"](path) if isinstance(item, Row)] == [
        {"prompt": "a", "completion": "two\nlines"},
        {"prompt": "b", "completion": 'quoted "x", comma'},
    ]


def test_csv_reports_every_broken_row_and_reads_on(tmp_path: Path) -> None:
    lines = [
        "prompt,completion",
        "a,b",
        "a,b,c",
        "a",
        'a,"b"c',
        b"caf\xe9,b",
        "a,b",
        'a,"never closed',
        "x,y",
    ]
    path = write(tmp_path, "x.csv", lines)
    assert faults(path) == [
        ("column_count", 3),
        ("column_count", 4),
        ("bad_csv", 5),
        ("not_utf8", 6),
        ("bad_csv", 8),
    ]
    assert rows(path) == [(2, 1), (7, 6)]


@pytest.mark.parametrize(
    ("header", "code"),
    [("prompt,prompt", "duplicate_key"), (b"pr\xe9mpt,x", "not_utf8"), ('a,"b"c', "bad_csv")],
)
def test_csv_with_a_broken_header_is_one_fault(tmp_path: Path, header: str | bytes, code: str) -> None:
    assert faults(write(tmp_path, "x.csv", [header, "a,b", "c,d"])) == [(code, 1)]


def test_csv_takes_cells_longer_than_the_csv_modules_default(tmp_path: Path) -> None:
    assert rows(write(tmp_path, "x.csv", ["prompt", "a" * 200_000])) == [(2, 1)]


def test_parquet_rows_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b", "c"]}), path)
    assert rows(path) == [(None, 1), (None, 2), (None, 3)]
    assert faults(path) == []


def test_parquet_that_is_cut_or_is_no_parquet_is_one_fault(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b", "c"]}), path)
    path.write_bytes(path.read_bytes()[:-7])
    assert faults(path) == [("bad_parquet", None)]
    assert faults(write(tmp_path, "y.parquet", ["prompt"])) == [("bad_parquet", None)]
