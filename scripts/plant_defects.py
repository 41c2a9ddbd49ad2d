"""Prove that the tests of PPO's numerics can fail: plant known defects, one at a time, and see the named test turn red.

    python scripts/plant_defects.py [--only NAME ...] [--jobs 2] [--list]

Each entry of defects.toml is a mistake that somebody has made (an edit of one file), the line of docs/ppo.md's table
that it breaks, and the test that must find it. Everything happens in copies of the tree in a temporary folder. The
call fails where an edit no longer fits its file, a named test does not pass without the defect, or stays green with
it. A test that cannot even be collected counts as neither.
"""

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("rlhf", "schemas", "tests", "recipes", "scripts", "docs", "pyproject.toml", "README.md")
PASSED, FAILED = 0, 1  # pytest's exit codes; the others say that nothing was tested


@dataclass(frozen=True)
class Defect:
    """One mistake and where it must show.

    Attributes:
        name: what is wrong.
        line: of docs/ppo.md's table of what must hold.
        file: relative to the repository's root.
        old, new: the edit; `old` stands in the file exactly once.
        test: pytest's id.
    """

    name: str
    line: int
    file: str
    old: str
    new: str
    test: str

    def planted(self, text: str) -> str:
        """The file's text with the defect.

        Raises:
            SystemExit: the text to replace is not there exactly once.
        """
        count = text.count(self.old)
        if count != 1:
            raise SystemExit(f"{self.name}: {self.file} has the text to replace {count} times, not once")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Outcome:
    """Exit code of pytest, and the first reason that it gave."""

    code: int
    reason: str

    @property
    def word(self) -> str:
        """red, green or error."""
        return {PASSED: "GREEN", FAILED: "red"}.get(self.code, "ERROR")


def main() -> None:
    """Plant them all, print the table, exit with 1 unless every one was found."""
    arguments = parsed()
    defects = chosen(arguments.only)
    for defect in defects:
        defect.planted((ROOT / defect.file).read_text(encoding="utf-8"))
    if arguments.list:
        for defect in defects:
            print(f"{defect.line:>2}  {defect.name:<44}  {defect.test}")
        return
    with tempfile.TemporaryDirectory(prefix="defects-") as folder:
        trees = [copied(Path(folder) / str(number)) for number in range(arguments.jobs)]
        require_green(trees[0], defects)
        missed = sum(outcome.code != FAILED for outcome in outcomes(trees, defects))
    print(f"{len(defects) - missed} of {len(defects)} defects found")
    sys.exit(1 if missed else 0)


def parsed() -> argparse.Namespace:
    """The call's arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="defects whose names contain one of these")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    parser.add_argument(
        "--list", action="store_true", help="check that the edits fit and list them; run nothing"
    )
    return parser.parse_args()


def chosen(only: list[str] | None) -> list[Defect]:
    """The defects of defects.toml, or those that are asked for."""
    text = (ROOT / "scripts" / "defects.toml").read_text(encoding="utf-8")
    defects = [Defect(**entry) for entry in tomllib.loads(text)["defect"]]
    names = [defect.name for defect in defects]
    if len(set(names)) != len(names):
        raise SystemExit("defects.toml has a name twice")
    defects = [defect for defect in defects if not only or any(part in defect.name for part in only)]
    if not defects:
        raise SystemExit(f"no defect has one of {only} in its name; --list shows them")
    return sorted(defects, key=lambda defect: defect.line)


def copied(tree: Path) -> Path:
    """A copy of what the tests need."""
    tree.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            unwanted = ("__pycache__", "data") if name == "recipes" else ("__pycache__",)
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns(*unwanted))
        else:
            shutil.copy2(source, tree / name)
    return tree


def require_green(tree: Path, defects: list[Defect]) -> None:
    """Stop unless all named tests pass without a defect, and test the copy."""
    where = subprocess.run(
        [sys.executable, "-c", "import rlhf; print(rlhf.__file__)"],
        cwd=tree,
        env=environment(tree),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not Path(where).resolve().is_relative_to(tree.resolve()):
        raise SystemExit(f"the tests would import {where}, not the copy")
    outcome = tested(tree, sorted({defect.test for defect in defects}))
    if outcome.code != PASSED:
        raise SystemExit(f"without a defect the named tests do not pass: {outcome.reason}")


def outcomes(trees: list[Path], defects: list[Defect]) -> Iterator[Outcome]:
    """Each defect's outcome in order; its row is printed as soon as it is known."""
    free: queue.Queue[Path] = queue.Queue()
    for tree in trees:
        free.put(tree)

    def plant(defect: Defect) -> Outcome:
        tree = free.get()
        path = tree / defect.file
        clean = path.read_text(encoding="utf-8")
        try:
            path.write_text(defect.planted(clean), encoding="utf-8")
            return tested(tree, [defect.test])
        finally:
            path.write_text(clean, encoding="utf-8")
            free.put(tree)

    print(f"{'line':>4}  {'found':<5}  {'defect':<44}  test")
    with ThreadPoolExecutor(len(trees)) as pool:
        for defect, outcome in zip(defects, pool.map(plant, defects), strict=True):
            print(f"{defect.line:>4}  {outcome.word:<5}  {defect.name:<44}  {defect.test}", flush=True)
            if outcome.code != FAILED:
                print(f"      {outcome.reason}", flush=True)
            yield outcome


def tested(tree: Path, tests: list[str]) -> Outcome:
    """Run some tests of a tree."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--durations=0", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=tree, env=environment(tree), capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines() + done.stderr.splitlines()
    reasons = [line for line in lines if re.match(r"(FAILED|ERROR) |E  ", line)]
    return Outcome(done.returncode, (reasons or lines or ["no output"])[-1][:200])


def environment(tree: Path) -> dict[str, str]:
    """That of this process, with the copy in front; no bytecode, which an edit within a second would leave stale."""
    path = os.pathsep.join([str(tree), str(tree / "schemas"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


if __name__ == "__main__":
    main()
