"""PPO-ptx trains on `data.sft.train`, so that split is an input of the PPO stage; without it, it is none."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from fake_stages import FakeStages
from tiny import TinyRecipe

from rlhf.errors import DataError, StageError, UsageError
from rlhf.models.tokenizer import train_tokenizer
from rlhf.pipeline.pins import Pins
from rlhf.recipe import Recipe, load_recipe
from rlhf.stages.inputs import StageInputs, stage_inputs

Run = Callable[..., str]
PTX = "ppo.ptx_coef=0.1"
OUTSIDE = (
    "model={path: base}",
    "sft=null",
    "reward=null",
    "ppo.reward_model=rm",
    "ppo.shaping.normalize=none",
)


@pytest.fixture
def outside(tiny_recipe: TinyRecipe) -> tuple[str, ...]:
    """Overrides for PPO alone, on models that lie in folders."""
    for name in ("base", "rm"):
        (tiny_recipe.folder / name).mkdir()
        (tiny_recipe.folder / name / "config.json").write_text("{}")
    train_tokenizer(["The cat is good. The dog is bad."], 300).save_pretrained(tiny_recipe.folder / "base")
    return OUTSIDE


def inputs_of(path: Path, *overrides: str) -> StageInputs:
    recipe = load_recipe(path, overrides)
    return stage_inputs(recipe, "ppo", policy=None, reward_model=None, data={})


def keys(recipe: Recipe, stage: Any) -> list[tuple[str, str, str]]:
    return [(read.key, read.kind, read.source.path) for read in recipe.reads(stage)]


def test_a_recipe_says_which_splits_a_stage_reads(tiny_recipe: TinyRecipe) -> None:
    without, with_ptx = (load_recipe(tiny_recipe.path, given) for given in ((), (PTX,)))
    prompts = [
        ("prompts.train", "prompt", "prompts.train.jsonl"),
        ("prompts.eval", "prompt", "prompts.eval.jsonl"),
    ]
    assert keys(without, "ppo") == prompts
    assert keys(with_ptx, "ppo") == [*prompts, ("sft.train", "sft", "sft.train.jsonl")]
    assert keys(with_ptx, "reward") == [
        ("preference.train", "preference", "preference.train.jsonl"),
        ("preference.eval", "preference", "preference.eval.jsonl"),
    ]
    once = [read.key for read in with_ptx.all_reads(["sft", "ppo"])]
    assert once == ["sft.train", "sft.eval", "prompts.train", "prompts.eval"]


def test_changed_demonstrations_build_ppo_anew_with_ptx_alone(
    run: Run, stages: FakeStages, tiny_recipe: TinyRecipe, outside: tuple[str, ...]
) -> None:
    for given in (outside, (*outside, PTX)):
        run(*given)
    with (tiny_recipe.folder / "sft.train.jsonl").open("a") as file:
        file.write('{"prompt": "The cow?", "completion": "The cow is good."}\n')
    assert "changed since it last ran: data sft.train" in run(*outside, PTX)
    assert stages.ran == ["ppo"]
    assert "Nothing to do" in run(*outside)


def test_unfinished_ppo_does_not_go_on_with_other_demonstrations(
    run: Run, stages: FakeStages, tiny_recipe: TinyRecipe, outside: tuple[str, ...]
) -> None:
    stages.fail_in = "ppo"
    with pytest.raises(StageError):
        run(*outside, PTX)
    with (tiny_recipe.folder / "sft.train.jsonl").open("a") as file:
        file.write('{"prompt": "The cow?", "completion": "The cow is good."}\n')
    with pytest.raises(UsageError, match=r"data sft\.train  \(needs a new start"):
        run(*outside, PTX, adopt_changes=True)


def test_missing_and_faulty_demonstrations_stop_ppo_before_it_starts(
    run: Run, stages: FakeStages, tiny_recipe: TinyRecipe, outside: tuple[str, ...]
) -> None:
    path = tiny_recipe.folder / "sft.train.jsonl"
    with path.open("a") as file:
        file.write('{"prompt": "The cow?"}\n')
    with pytest.raises(DataError, match=r"sft.train.jsonl:25"):
        run(*outside, PTX)
    path.unlink()
    with pytest.raises(UsageError, match=r"data.sft.train: "):
        run(*outside, PTX)
    assert stages.ran == []
    run(*outside)
    assert stages.ran == ["ppo"]


def test_a_hub_data_set_of_demonstrations_is_pinned_without_an_sft_section(
    tiny_recipe: TinyRecipe, outside: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = SimpleNamespace(dataset_info=lambda name, *, revision, timeout: SimpleNamespace(sha="b" * 40))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.chdir(tiny_recipe.folder)
    rows = "data.sft.train={path: owner/rows, split: train}"
    for ptx, revision in ((PTX, "b" * 40), ("ppo.ptx_coef=0.0", None)):
        resolved = Pins(tmp_path).resolve(load_recipe(tiny_recipe.path, [*outside, rows, ptx]))
        assert resolved.data.sft is not None
        assert resolved.data.sft.train.revision == revision


def test_mapping_and_length_rule_of_the_demonstrations_count_with_ptx_alone(tiny_recipe: TinyRecipe) -> None:
    path = tiny_recipe.path
    mapped, drop = "data.sft.train={path: sft.train.jsonl, columns: {prompt: q}}", "sft.over_length=drop"
    plain = inputs_of(path)
    for override in (mapped, drop, "sft.max_length=32"):
        assert inputs_of(path, override) == plain
    with_ptx = inputs_of(path, PTX).settings
    assert {name: with_ptx[name] for name in with_ptx.keys() - plain.settings.keys()} == {
        "data.sft.train.extra": "error",
        "sft.max_length": 64,
        "sft.over_length": "error",
    }
    assert inputs_of(path, PTX, mapped).settings["data.sft.train.columns.prompt"] == "q"
    assert inputs_of(path, PTX, drop).settings["sft.over_length"] == "drop"
    assert inputs_of(path, PTX, "sft.max_length=32").settings["sft.max_length"] == 32
    assert "sft.learning_rate" not in with_ptx
