"""Every line of docs/ppo.md's table of what must hold has a test that is named after it, and the table names them all."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NUM_LINES = 31


def names_by_line() -> dict[int, set[str]]:
    """Line -> tests, from the test files as text: this test must not depend on what pytest collects."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        for name, number in re.findall(r"^def (test_line_(\d\d)_\w+)\(", text, re.MULTILINE):
            found[int(number)].add(f"{path.relative_to(ROOT)}::{name}")
    return found


def test_every_line_has_a_test_named_after_it() -> None:
    assert sorted(names_by_line()) == list(range(1, NUM_LINES + 1))


def test_the_table_names_these_tests_and_no_others() -> None:
    page = (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8")
    table = {
        int(row[0]): set(re.findall(r"`(tests/[\w/.]+::\w+)`", row[1]))
        for row in re.findall(r"^\| (\d+) \|(.*)\|$", page, re.MULTILINE)
    }
    assert table == names_by_line()
