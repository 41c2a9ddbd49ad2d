"""Two processes, one of them killed in a save: resumed equals uninterrupted, metrics included."""

import re
from pathlib import Path
from typing import Any

import pytest
from planted_faults import plant
from safetensors.torch import load_file
from tiny import TinyRecipe, write_tiny_recipe

from rlhf.metrics import read_metrics

CHANGES = {"sft": {"per_device_batch_size": 4, "max_steps": 12, "save_every_steps": 3, "eval_every_steps": 6}}
CLOCKS = ("time", "runtime", "per_second")


def written(folder: Path) -> TinyRecipe:
    """SFT alone, on two processes."""
    folder.mkdir()
    recipe = write_tiny_recipe(folder, CHANGES)
    sections = recipe.sections()
    del sections["ppo"], sections["reward"], sections["data"]["prompts"], sections["data"]["preference"]
    recipe.write({**sections, "launch": {"num_processes": 2}})
    return recipe


def lines_of(recipe: TinyRecipe) -> list[dict[str, Any]]:
    lines = read_metrics(recipe.run / "sft" / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.endswith(CLOCKS)} for line in lines]


@pytest.mark.slow
@pytest.mark.distributed
def test_metrics_and_weights_after_a_rank_was_killed_are_those_of_an_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = written(tmp_path / "whole"), written(tmp_path / "killed")
    code, output = whole.call("run", "recipe.yaml")
    assert code == 0, output
    with monkeypatch.context() as patch:
        plant(patch, tmp_path / "site", how="kill", place="torch", name="save", call=3, ranks=[1])
        code, output = killed.call("run", "recipe.yaml")
        assert code == 1, output
    code, output = killed.call("run", "recipe.yaml")
    assert code == 0, output
    assert re.search(r"resumed: .*\bstep 6\b", output), output
    lines = lines_of(whole)
    assert [line["step"] for line in lines if "loss" in line] == [10]
    assert lines_of(killed) == lines
    first, second = (
        load_file(recipe.workspace / "registry" / "tiny-sft" / "1" / "model.safetensors")
        for recipe in (whole, killed)
    )
    assert first.keys() == second.keys()
    assert all(second[name].equal(value) for name, value in first.items())
