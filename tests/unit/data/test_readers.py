"""Each format with broken lines planted at known places, and its clean twin."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rlhf.data.csvtable
import rlhf.data.jsonarray
from rlhf.data.fault import Fault
from rlhf.data.place import Row
from rlhf.data.source import read_rows
from rlhf.recipe.data import DataSource

GOOD = '{"prompt": "Hello?", "completion": "Hi."}'


def write(folder: Path, name: str, lines: Sequence[str | bytes], end: bytes = b"\n") -> Path:
    path = folder / name
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    path.write_bytes(b"\n".join(raw) + end)
    return path


def read(path: Path) -> list[Row | Fault]:
    return list(read_rows(DataSource(path=str(path))))


def faults(path: Path) -> list[tuple[str, int | None]]:
    return [(item.code, item.line) for item in read(path) if isinstance(item, Fault)]


def rows(path: Path) -> list[tuple[int | None, int | None]]:
    return [(item.place.line, item.place.row) for item in read(path) if isinstance(item, Row)]


def values(path: Path) -> list[dict[str, object]]:
    return [item.values for item in read(path) if isinstance(item, Row)]


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
    ("name", "lines"),
    [
        ("x.jsonl", [GOOD]),
        ("x.json", ["[", GOOD, "]"]),
        ("x.csv", ["prompt", "a"]),
        ("x.tsv", ["prompt", "a"]),
        ("x.txt", ["a"]),
    ],
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
    assert values(path) == json.loads(text)


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
    written = [{"a": 'quote " and \\ and é ☃'}, {"b": {"c": [{}, "]},{"]}}, {"d": "\\"}]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    assert values(path) == written
    assert faults(path) == []


def test_a_json_file_with_an_object_a_line_is_read_as_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "x.json", [GOOD, '{"prompt": }', GOOD])
    assert rows(path) == [(1, 1), (3, 3)]
    assert faults(path) == [("bad_json", 2)]


def test_a_json_file_whose_first_of_many_objects_is_broken_is_read_as_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "x.json", ["", '{"prompt": "a"', GOOD, GOOD])
    assert rows(path) == [(3, 2), (4, 3)]
    assert faults(path) == [("bad_json", 2)]


def test_a_json_file_that_is_one_object_is_one_row(tmp_path: Path) -> None:
    path = write(tmp_path, "x.json", ["", "{", '"prompt": "a",', '"n": {"b": [1]}', "}"])
    assert rows(path) == [(2, 1)]
    assert values(path) == [{"prompt": "a", "n": {"b": [1]}}]
    assert faults(write(tmp_path, "y.json", ["{", '"prompt": "a",', '"n": {"b"'])) == [("truncated", 1)]


def test_an_object_too_large_for_one_row_is_one_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rlhf.data.jsonarray, "OBJECT_BYTES", 10)
    path = write(tmp_path, "x.json", ["{", '"data": [', "1234567,", "89", "]}"])
    assert faults(path) == [("not_array", 1)]


@pytest.mark.parametrize("lines", [["", "hello"], ["", '"text"']])
def test_a_json_file_that_is_no_array_is_one_fault(tmp_path: Path, lines: list[str]) -> None:
    assert faults(write(tmp_path, "x.json", lines)) == [("not_array", 2)]


def test_csv_rows_have_the_line_where_they_start(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", ["prompt,completion", 'a,"two', 'lines"', "", 'b,"quoted ""x"", comma"'])
    assert rows(path) == [(2, 1), (5, 2)]
    assert faults(path) == []
    assert values(path) == [
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
    assert rows(path) == [(2, 1), (7, 6), (9, 8)]


def test_a_quote_that_is_never_closed_hides_no_row(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", ["a,b", 'x,"open', '1,"two', 'lines"', "2,c"])
    assert faults(path) == [("bad_csv", 2)]
    assert rows(path) == [(3, 2), (5, 3)]
    assert values(path) == [{"a": "1", "b": "two\nlines"}, {"a": "2", "b": "c"}]


def test_a_quote_that_stays_open_for_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rlhf.data.csvtable, "RECORD_CHARS", 30)
    path = write(tmp_path, "x.csv", ["a,b", '1,"open', *["2,three"] * 20, '3,"closed"'])
    assert faults(path) == [("bad_csv", 2)]
    assert rows(path) == [(line, line - 1) for line in range(3, 24)]


def test_csv_with_lone_carriage_returns_as_line_ends_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\r1,2\r\r3,4\r5\r")
    assert rows(path) == [(2, 1), (4, 2)]
    assert faults(path) == [("column_count", 5)]


def test_a_carriage_return_inside_a_cell_is_no_line_where_lines_end_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\r\n1,"x\ry"\r\n3,4\r\n')
    assert rows(path) == [(2, 1), (3, 2)]
    assert values(path)[0] == {"a": "1", "b": "x\ry"}


def test_a_nul_in_a_cell_is_left_to_the_checks_of_content(tmp_path: Path) -> None:
    assert values(write(tmp_path, "x.csv", ["a,b", "1,x\0y"])) == [{"a": "1", "b": "x\0y"}]


def test_tsv_is_csv_with_tabs(tmp_path: Path) -> None:
    path = write(tmp_path, "x.tsv", ["prompt\tcompletion", 'a, b\t"say ""x""\tor', 'y"', "c", "d\te"])
    assert values(path) == [
        {"prompt": "a, b", "completion": 'say "x"\tor\ny'},
        {"prompt": "d", "completion": "e"},
    ]
    assert rows(path) == [(2, 1), (5, 3)]
    assert faults(path) == [("column_count", 4)]


def test_text_has_a_row_a_line_without_its_line_break(tmp_path: Path) -> None:
    path = write(
        tmp_path, "x.txt", ["one\r", "", "  ", b"caf\xe9", " two \u2028 three", b"cut \xc3"], end=b""
    )
    assert values(path) == [{"text": "one"}, {"text": " two \u2028 three"}]
    assert rows(path) == [(1, 1), (5, 3)]
    assert faults(path) == [("not_utf8", 4), ("truncated", 6)]


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


def test_parquet_and_arrow_name_the_row_whose_text_is_not_utf8(tmp_path: Path) -> None:
    binary = pa.array([b"a", b"caf\xe9", b"c"])
    table = pa.table({"n": [1, 2, 3], "prompt": pa.Array.from_buffers(pa.string(), 3, binary.buffers())})
    pq.write_table(table, tmp_path / "x.parquet")
    with pa.ipc.new_stream(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    for path in (tmp_path / "x.parquet", tmp_path / "x.arrow"):
        found = [(one.code, one.row, one.field) for one in read(path) if isinstance(one, Fault)]
        assert found == [("not_utf8", 2, "prompt")]
        assert values(path) == [{"n": 1, "prompt": "a"}, {"n": 3, "prompt": "c"}]


def test_a_table_with_a_column_twice_is_one_fault(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pa.ipc.new_file(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    for path in (tmp_path / "x.parquet", tmp_path / "x.arrow"):
        assert faults(path) == [("duplicate_key", None)]
        assert rows(path) == []


@pytest.mark.parametrize("make", [pa.ipc.new_stream, pa.ipc.new_file])
def test_an_arrow_file_of_either_form_is_read(tmp_path: Path, make: Callable[..., Any]) -> None:
    path = tmp_path / "x.arrow"
    table = pa.table({"prompt": [f"p{number}" for number in range(2500)]})
    with make(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2000)
    assert values(path) == [{"prompt": f"p{number}"} for number in range(2500)]
    assert rows(path) == [(None, row) for row in range(1, 2501)]
    assert faults(path) == []


def test_an_arrow_stream_that_is_cut_gives_the_rows_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    table = pa.table({"prompt": ["a" * 1000] * 6})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    path.write_bytes(path.read_bytes()[:-1500])
    assert rows(path) == [(None, row) for row in range(1, 5)]
    assert faults(path) == [("bad_arrow", None)]
    assert faults(write(tmp_path, "y.arrow", ["no arrow"])) == [("bad_arrow", None)]
