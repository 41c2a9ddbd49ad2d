"""What is found of the data before the first stage, with and without a tokenizer at hand."""

import json
from pathlib import Path

import pytest
from tiny import TinyRecipe

from rlhf.data import check_splits, report_of
from rlhf.errors import DataError
from rlhf.models.tokenizer import train_tokenizer
from rlhf.pipeline.token_findings import add_token_findings
from rlhf.recipe import load_recipe
from rlhf.stages.tokens import checks as token_checks


def test_a_later_stages_split_that_cannot_be_prepared_is_found_before_the_tokenizer_is_trained(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    pair = {"prompt": "a?", "chosen": "b", "rejected": "c", "metadata": {"from": "here"}}
    path.write_text(json.dumps(pair) + "\n")

    def find(group: str) -> str:
        weights = f"{{by: metadata.from, values: {{{group}: 2.0}}}}"
        source = f"data.preference.train={{path: {path}, prepare: {{weights: {weights}}}}}"
        recipe = load_recipe(tiny_recipe.path, [source, "data.preference.eval=null"])
        assert recipe.model.path is None
        surveys = check_splits(recipe.all_reads(["reward"]), chat=recipe.data.chat)
        return add_token_findings(recipe, ["reward"], surveys)

    assert "trains the tokenizer" in find("here")
    with pytest.raises(DataError, match="groups that no row has: there"):
        find("there")


def test_with_the_models_tokenizer_each_split_is_encoded_as_its_stages_will(
    tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_checks, "TOLD_ROWS", 1)
    train_tokenizer(["is it good? it is."], 300).save_pretrained(tmp_path / "model")
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": "is it?", "completion": " it is."},
        {"prompt": "is it " * 200, "completion": " it is."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = f"model={{path: {tmp_path / 'model'}}}"
    changes = [model, f"data.sft.train={path}", "data.sft.eval=null", "sft.over_length=truncate"]
    recipe = load_recipe(tiny_recipe.path, [*changes, "data.checks.max_cut_share=1"])
    surveys = check_splits(recipe.all_reads(["sft"]), chat=recipe.data.chat)
    told: dict[str, list[float]] = {}
    assert (
        add_token_findings(recipe, ["sft"], surveys, progress=lambda name: told.setdefault(name, []).append)
        == ""
    )
    (found,) = surveys.values()
    assert [(fault.code, fault.line) for fault in found.found.kept if fault.severity == "error"] == [
        ("no_label", 2)
    ]
    assert report_of(found).refuses
    assert told == {"sft.train as tokens": [0.5, 1.0]}
