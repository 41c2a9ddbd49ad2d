"""The pages agree with the code: generated ones are fresh, links lead somewhere, every metric is explained."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.data import CHECKS
from rlhf.pipeline.progress import WATCHED
from rlhf.pipeline.summary import SHOWN
from rlhf.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LOGGED = {
    "rlhf/ppo/measures.py": (
        *("rollout_metrics", "evaluation_metrics", "paired_metrics"),
        "_scores_by_source",
    ),
    "rlhf/ppo/importance.py": ("importance_metrics",),
    "rlhf/ppo/evaluation.py": ("evaluate", "_against_best_of_n"),
    "rlhf/ppo/rollout.py": ("collect",),
    "rlhf/ppo/update_metrics.py": ("update_metrics",),
    "rlhf/ppo/trainer.py": ("train", "_timing"),
    "rlhf/ppo/sources/measures.py": ("source_metrics",),
    "rlhf/ppo/watch.py": ("check",),
}
"""Where PPO's metrics get their names."""
REPORTED = ("reward_report", "_by_margin")


def test_generated_pages_are_fresh() -> None:
    checked = subprocess.run(
        [sys.executable, "scripts/make_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_the_check_finds_a_stale_page(tmp_path: Path) -> None:
    scripts = shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "cli.md").write_bytes((ROOT / "docs" / "cli.md").read_bytes())
    (docs / "recipe.md").write_text("# Recipe reference\n", encoding="utf-8")

    checked = subprocess.run(
        [sys.executable, str(scripts / "make_docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 1
    assert "docs/recipe.md is stale" in checked.stderr
    assert "docs/data_checks.md is stale" in checked.stderr
    assert "cli.md" not in checked.stderr


def test_every_check_of_data_is_explained() -> None:
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in (ROOT / "docs" / "data_checks.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert sorted(code.strip("`") for code, *_ in rows) == sorted(CHECKS)
    # one entry of each severity as the page must show it
    assert ["`equal_pair`", "always error", "chosen is equal to rejected"] in [row[:3] for row in rows]
    assert ["`nul`", "error", "a NUL character inside a text"] in [row[:3] for row in rows]
    assert ["`duplicate`", "warning", "a row that is equal to an earlier one"] in [row[:3] for row in rows]
    assert all(len(row) == 4 and all(row) for row in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        path, _, fragment = target.partition("#")
        file = page if not path else (page.parent / path).resolve()
        if not file.exists() or (fragment and fragment not in _anchors(file)):
            broken.append(target)
    assert broken == []


def test_paths_of_the_file_map_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.partition("## File map")[2].split("```")[1]
    paths = [line.split()[0] for line in block.strip().splitlines()]
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_in_pages_load(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(name: .*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block, encoding="utf-8")
        assert load_recipe(file).stages() == ["sft", "reward", "ppo"]
    assert len(blocks) == (1 if page.name == "README.md" else 0)


def test_every_logged_metric_is_explained() -> None:
    logged = _logged()
    # Known to be logged: were the search to find nothing, this test would pass for the wrong reason.
    assert {"objective/kl", "val/explained_variance", "eps", "lr", "eval/distinct_2"} <= logged
    assert {"eval/accuracy_ci_low", "eval/accuracy_large_margin", "eval/mean_gap"} <= logged
    assert sorted(logged - _explained()) == []


def test_shown_metrics_are_explained() -> None:
    shown = {name for names in (*WATCHED.values(), *SHOWN.values()) for name in names}
    assert sorted(shown - _explained()) == []


def test_no_metric_of_ours_is_explained_that_does_not_exist() -> None:
    ours = {name for name in _explained() if "/" in name and not name.startswith("eval/sft_")}
    assert sorted(ours - _logged()) == []


def _logged() -> set[str]:
    names = {name for file, functions in LOGGED.items() for name in _literal_names(file, functions)}
    # `train` also makes the mapping of tensors that goes into the rollouts.
    names -= {"shaped", "rewards", "advantages", "returns"}
    report = _literal_names("rlhf/stages/reward_report.py", REPORTED)
    return names | {f"eval/{name}" for name in report}


def _literal_names(file: str, functions: tuple[str, ...]) -> set[str]:
    """Text keys of mappings written out in these functions, and those set one by one; what varies in them is NAME."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    bodies = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in functions]
    assert {body.name for body in bodies} == set(functions), file
    names: set[str] = set()
    for node in (node for body in bodies for node in ast.walk(body)):
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Dict):
            keys = list(node.keys)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys = [node.slice]
        names |= {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
        names |= {_pattern(key) for key in keys if isinstance(key, ast.JoinedStr)}
    return names


def _pattern(key: ast.JoinedStr) -> str:
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "NAME" for part in key.values)


def _explained() -> set[str]:
    """Names in the first column of the glossary's tables."""
    lines = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines()
    return {
        name
        for line in lines
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


def _anchors(file: Path) -> set[str]:
    """The fragments that GitHub gives a page's headings."""
    text = _without_code(file.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)
