"""Hub names are asked for once a run, and then known offline; unreachable ones end in one message."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from tiny import TinyRecipe

from rlhf.data import digest_source
from rlhf.errors import ModelError, RegistryError, UsageError
from rlhf.pipeline.pins import Pins, needed_references, outside_model
from rlhf.recipe import Recipe, load_recipe
from rlhf.registry import ManifestDraft, Registry

MODEL, ROWS = "a" * 40, "b" * 40


class CountingHub:
    """In place of HfApi: counts questions, and refuses them when offline."""

    questions: list[tuple[str, str, str | None]]
    online: bool

    def __init__(self) -> None:
        self.questions, self.online = [], True

    def _answer(self, kind: str, name: str, revision: str | None, sha: str) -> Any:
        self.questions.append((kind, name, revision))
        if not self.online:
            raise huggingface_hub.errors.OfflineModeIsEnabled("offline")
        return SimpleNamespace(sha=sha)

    def model_info(self, name: str, *, revision: str | None, timeout: float) -> Any:
        return self._answer("model", name, revision, MODEL)

    def dataset_info(self, name: str, *, revision: str | None, timeout: float) -> Any:
        return self._answer("dataset", name, revision, ROWS)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> CountingHub:
    counting = CountingHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: counting)
    return counting


@pytest.fixture
def hub_recipe(tiny_recipe: TinyRecipe) -> Recipe:
    return load_recipe(
        tiny_recipe.path,
        [
            "model={path: owner/base}",
            "data.sft.train={path: owner/rows, split: train}",
            "data.sft.eval={path: owner/rows, split: test}",
            "data.preference.train={path: owner/rows, split: pairs, revision: v1}",
        ],
    )


def test_the_first_run_asks_once_a_name_and_the_second_works_offline(
    hub: CountingHub, hub_recipe: Recipe, tmp_path: Path
) -> None:
    resolved = Pins(tmp_path).resolve(hub_recipe)
    assert hub.questions == [
        ("model", "owner/base", None),
        ("dataset", "owner/rows", None),
        ("dataset", "owner/rows", "v1"),
    ]
    assert resolved.model.revision == MODEL
    assert resolved.splits("sft").train.revision == ROWS
    assert resolved.splits("reward").train.revision == ROWS
    assert resolved.splits("ppo").train.revision is None, "a local file has no commit"
    hub.online = False
    assert Pins(tmp_path).resolve(hub_recipe) == resolved
    assert len(hub.questions) == 3


def test_a_dry_run_asks_and_writes_nothing(hub: CountingHub, hub_recipe: Recipe, tmp_path: Path) -> None:
    Pins(tmp_path / "run", remember=False).resolve(hub_recipe)
    assert len(hub.questions) == 3
    assert not (tmp_path / "run").exists()


def test_a_commit_in_the_recipe_needs_no_question(hub: CountingHub, tmp_path: Path) -> None:
    assert Pins(tmp_path).commit("model", "owner/base", "c" * 40) == "c" * 40
    assert hub.questions == []


def test_offline_without_a_pin_is_one_message(hub: CountingHub, tmp_path: Path) -> None:
    hub.online = False
    with pytest.raises(ModelError, match=r"model owner/base@v2: cannot be resolved on the hub: offline"):
        Pins(tmp_path).commit("model", "owner/base", "v2")


def test_no_connection_and_a_malformed_name_are_one_message_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("owner/base", "owner/--bad--"):
        with pytest.raises(ModelError, match="cannot be resolved on the hub"):
            Pins(tmp_path).commit("model", name, None)


def test_the_rows_of_a_pinned_data_set_are_digested_once(
    hub: CountingHub, hub_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Pins(tmp_path).resolve(hub_recipe).splits("sft").train
    read: list[str] = []
    monkeypatch.setattr("rlhf.pipeline.pins.digest_source", lambda given: read.append(given.path) or "d" * 64)
    assert [Pins(tmp_path).data_digest(source) for _ in range(2)] == ["d" * 64] * 2
    assert read == ["owner/rows"]


def test_a_local_file_is_digested_every_time(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    recipe = load_recipe(tiny_recipe.path, [f"data.sft.train={path}"])
    source, pins = recipe.splits("sft").train, Pins(tmp_path)
    path.write_text("{}\n")
    first = pins.data_digest(source)
    path.write_text("{ }\n")
    assert first is not None
    assert pins.data_digest(source) == digest_source(source) != first


def test_damaged_pins_are_named(tmp_path: Path) -> None:
    for content in ("{", '{"a": 1}', "[]"):
        (tmp_path / "pins.json").write_text(content)
        with pytest.raises(UsageError, match=r"pins.json is damaged"):
            Pins(tmp_path)


def publish(registry: Registry, name: str, parents: tuple[str, ...] = ()) -> str:
    staged = registry.staging(name)
    (staged / "config.json").write_text("{}")
    draft = ManifestDraft(
        name=name,
        stage="sft",
        kind="causal_lm",
        recipe_digest="r",
        inputs_digest="i",
        tokenizer_digest="t",
        code_version="0",
    )
    return registry.publish(staged, draft).reference


def test_latest_stays_what_it_was_when_the_run_first_asked(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    recipe = load_recipe(tiny_recipe.path)
    with pytest.raises(RegistryError, match="rm"):
        outside_model(recipe, Pins(tmp_path), registry, "registry:rm")
    publish(registry, "rm")
    assert outside_model(recipe, Pins(tmp_path), registry, "registry:rm@latest").reference == "rm@1"
    publish(registry, "rm")
    assert outside_model(recipe, Pins(tmp_path), registry, "registry:rm@latest").reference == "rm@1"
    assert json.loads((tmp_path / "pins.json").read_text()) == {"registry:rm@latest": "rm@1"}


def test_a_model_folder_that_is_none_is_named(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe, registry = load_recipe(tiny_recipe.path), Registry(tmp_path / "registry")
    (tmp_path / "empty").mkdir()
    for path, what in ((tmp_path / "none", "does not exist"), (tmp_path / "empty", "holds no config.json")):
        with pytest.raises(ModelError, match=f"model {path}: the folder {what}"):
            outside_model(recipe, Pins(tmp_path), registry, str(path))


def test_a_local_model_whose_file_changes_is_another_input(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe, registry = load_recipe(tiny_recipe.path), Registry(tmp_path / "registry")
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    first = outside_model(recipe, Pins(tmp_path), registry, str(folder))
    assert outside_model(recipe, Pins(tmp_path), registry, str(folder)) == first
    (folder / "config.json").write_text("{ }")
    assert outside_model(recipe, Pins(tmp_path), registry, str(folder)) != first


def test_garbage_collection_keeps_what_runs_pinned_and_forgets_what_is_gone(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    for _ in range(3):
        publish(registry, "rm")
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "pins.json").write_text(
        json.dumps({"registry:rm@best": "rm@1", "registry:x": "x@4", "model:a/b@main": MODEL})
    )
    assert needed_references(tmp_path) == ["rm@1"]
    gone = registry.gc(keep=1, protect=needed_references(tmp_path))
    assert [removed.reference for removed in gone] == ["rm@2"]


def test_mixed_in_and_held_out_hub_data_are_pinned_too(
    hub: CountingHub, tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_recipe.folder)
    mixed = "mix_in: [{path: sft.eval.jsonl, share: 0.1}, {path: owner/general, split: train, share: 0.2}]"
    overrides = [
        f"data.sft.train={{path: owner/rows, split: train, {mixed}}}",
        "data.sft.eval=null",
        "data.sft.holdout={share: 0.1}",
    ]
    resolved = Pins(tmp_path).resolve(load_recipe(tiny_recipe.path, overrides))
    train = resolved.splits("sft").train
    assert train.revision == ROWS
    assert [one.revision for one in train.mix_in] == [None, ROWS]
    assert [read.source.revision for read in resolved.reads("sft")] == [ROWS, ROWS]
    assert [name for _, name, _ in hub.questions] == ["owner/rows", "owner/general"]


def test_the_digest_of_a_mixture_is_that_of_the_data_layer(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    folder = tiny_recipe.folder
    mixed = f"mix_in: [{{path: {folder}/sft.eval.jsonl, share: 0.1}}]"
    source = load_recipe(tiny_recipe.path, [f"data.sft.train={{path: {folder}/sft.train.jsonl, {mixed}}}"])
    digest = Pins(tmp_path).data_digest(source.splits("sft").train)
    assert digest == digest_source(source.splits("sft").train)
    assert digest is not None
    (folder / "sft.eval.jsonl").unlink()
    assert Pins(tmp_path).data_digest(source.splits("sft").train) is None
