"""Damaged files of every format end as findings with a place, never as an exception."""

import re
import sys
import time
from pathlib import Path

import pytest
from data_corpus.writers import as_table, write_parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.data import check
from rlhf.recipe.data import DataSource

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

from fuzz_inputs import FORMATS, INTERESTING, Case, Edit, damaged, draw_case, examine, seeds

EDITS = st.lists(
    st.builds(
        Edit,
        st.integers(0, 4095),
        st.sampled_from((0, 1, 2, 16, 4096)),
        st.one_of(st.binary(max_size=8), st.sampled_from(INTERESTING)),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("fmt", FORMATS)
def test_undamaged_inputs_of_the_fuzzer_are_clean(fmt: str, tmp_path: Path) -> None:
    assert len(seeds(fmt)) >= 2
    for case in seeds(fmt):
        examine(damaged(case, [], after_compression=False), tmp_path)


@pytest.mark.parametrize("fmt", FORMATS)
def test_damaged_bytes_never_crash_the_check(fmt: str, tmp_path: Path) -> None:
    @settings(
        max_examples=200,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(seeds(fmt)), EDITS, st.booleans(), st.integers(0, 3))
    def never_crashes(case: Case, edits: list[Edit], after_compression: bool, file: int) -> None:
        examine(damaged(case, edits, after_compression=after_compression, file=file), tmp_path)

    never_crashes()


def test_an_input_of_the_fuzzer_depends_on_its_seed_and_number_alone() -> None:
    assert draw_case(1, 40) == draw_case(1, 40)
    assert draw_case(1, 40) != draw_case(2, 40)


ODD_FILES = {
    "half a pair as a column's name": ("x.json", b'[{"\\ud83d": "a"}]'),
    "a line break in a column's name": ("x.jsonl", b'{"a\\nb": "a"}\n'),
    "half a pair as a metadata key": ("x.jsonl", b'{"prompt": "a", "metadata": {"\\udc00": 1}}\n'),
    "an array without rows": ("x.json", b"[]"),
    "an array of a comma": ("x.json", b"[,]"),
    "an empty archive": ("x.jsonl.gz", b""),
    "a header of one quote": ("x.csv", b'"'),
    "a header of separators": ("x.tsv", b"\t\t\t\n"),
}
"""Found by the fuzzer, or feared."""


@pytest.mark.parametrize("name", ODD_FILES)
def test_an_odd_file_is_reported_and_shown(name: str, tmp_path: Path) -> None:
    file, data = ODD_FILES[name]
    for kind in ("sft", "preference", "prompt", "rollout"):
        examine(Case(file, file, {file: data}, kind), tmp_path)
        examine(Case(file, file, {file: data}, kind, {"extra": "metadata"}), tmp_path)


def test_a_parquet_page_that_claims_two_gigabytes_takes_neither_time_nor_memory(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, as_table([{"prompt": f"How much is {number}?"} for number in range(8)]))
    data = path.read_bytes()
    # the first page's header in Thrift's compact form: its type, its size, and its size when packed
    sizes = re.match(rb"PAR1\x15\x04\x15[\x80-\xff]*[\0-\x7f]\x15([\x80-\xff]*[\0-\x7f])", data)
    assert sizes is not None
    claim = b"\xe2\xd5\x98\xae\x0e"  # 1,927,484,785
    body = data.index(b"How much")
    cut = (
        body + len(claim) - len(sizes[1])
    )  # as many bytes less, so that all else stays where the footer says
    path.write_bytes(data[: sizes.start(1)] + claim + data[sizes.end(1) : body] + data[cut:])
    started = time.monotonic()
    report = check(DataSource(path=str(path)), "prompt")
    assert [fault.code for fault in report.faults] == ["bad_parquet"]
    assert time.monotonic() - started < 2
