"""What is found of the data without a tokenizer at hand, before the first stage."""

import json
from pathlib import Path

import pytest
from tiny import TinyRecipe

from rlhf.data import check_splits
from rlhf.errors import DataError
from rlhf.pipeline.token_findings import add_token_findings
from rlhf.recipe import load_recipe


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
