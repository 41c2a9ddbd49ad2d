"""The planted defects still fit the code, name tests that exist, and leave no line of docs/ppo.md's table without one.

Whether each defect turns its test red is for `python scripts/plant_defects.py` to show, which takes minutes.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NUM_LINES = 31


def defects() -> list[dict[str, Any]]:
    return tomllib.loads((ROOT / "scripts" / "defects.toml").read_text(encoding="utf-8"))["defect"]


def listed(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "scripts" / "plant_defects.py"), "--list"],
        capture_output=True,
        text=True,
        check=False,
    )


def is_there(test: str) -> bool:
    """Whether the file of a pytest id defines its function."""
    file, _, name = test.partition("::")
    path = ROOT / file
    return path.is_file() and re.search(rf"^def {name}\(", path.read_text("utf-8"), re.MULTILINE) is not None


def test_every_edit_fits_its_file() -> None:
    done = listed(ROOT)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(defects())


def test_an_edit_that_no_longer_fits_is_named(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy2(ROOT / "scripts" / "plant_defects.py", tmp_path / "scripts")
    (tmp_path / "code.py").write_text("x = 1\ny = 1\n", encoding="utf-8")
    for old, count in (("x = 1", 1), ("x = 2", 0), ("= 1", 2)):
        entry = {"name": "wrong sum", "file": "code.py", "old": old, "new": "x = 3", "test": "t.py::t"}
        lines = ["[[defect]]", "line = 1", *(f"{key} = '{value}'" for key, value in entry.items())]
        (tmp_path / "scripts" / "defects.toml").write_text("\n".join(lines), encoding="utf-8")
        done = listed(tmp_path)
        assert (done.returncode == 0) is (count == 1)
        assert (f"wrong sum: code.py has the text to replace {count} times" in done.stderr) is (count != 1)


def test_every_named_test_exists() -> None:
    assert [defect["test"] for defect in defects() if not is_there(defect["test"])] == []
    assert not is_there("tests/unit/test_planted_defects.py::test_every"), "a part of a name is none"


def test_every_line_of_the_table_has_a_defect() -> None:
    assert len(defects()) >= NUM_LINES
    assert {defect["line"] for defect in defects()} == set(range(1, NUM_LINES + 1))


def test_every_defect_changes_something_under_the_package() -> None:
    for defect in defects():
        assert defect["file"].startswith("rlhf/"), defect["name"]
        assert defect["old"] != defect["new"], defect["name"]
