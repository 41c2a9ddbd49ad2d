"""One finished tiny run, made once for all workers; each test gets a copy of its own."""

import fcntl
import shutil
from pathlib import Path

import pytest
from tiny import TinyRecipe, write_tiny_recipe


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> TinyRecipe:
    """A run of all three stages; its output lies in `output.txt`. Read it, or copy it."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "finished"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recipe = TinyRecipe(shared / "recipe.yaml")
        if not (shared / "output.txt").exists():
            write_tiny_recipe(shared)
            code, output = recipe.call("run", "recipe.yaml")
            assert code == 0, output
            (shared / "output.txt").write_text(output, encoding="utf-8")
    return recipe


@pytest.fixture
def copied_run(finished_run: TinyRecipe, tmp_path: Path) -> TinyRecipe:
    """A copy of the finished run, to be changed or damaged."""
    shutil.copytree(finished_run.folder, tmp_path / "copy")
    return TinyRecipe(tmp_path / "copy" / "recipe.yaml")
