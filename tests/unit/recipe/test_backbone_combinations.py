"""When models cannot share a backbone, said as soon as the recipe is read."""

import pytest
from tiny import TinyRecipe, write_tiny_recipe

from rlhf.errors import RecipeError
from rlhf.recipe import load_recipe

LORA = {"path": "owner/base", "revision": "0" * 40, "lora": {"r": 4}}


def recipe_of(folder, ppo, model=None) -> TinyRecipe:
    recipe = write_tiny_recipe(folder, {"ppo": ppo})
    if model is not None:
        recipe.write(recipe.sections() | {"model": model})
    return recipe


def test_adapters_may_share_one(tmp_path):
    read = load_recipe(recipe_of(tmp_path, {"backbone": "shared"}, LORA).path)
    assert read.ppo is not None
    assert read.ppo.backbone == "shared"


def test_by_default_every_model_has_its_own(tmp_path):
    read = load_recipe(recipe_of(tmp_path, {}).path)
    assert read.ppo is not None
    assert (read.ppo.backbone, read.ppo.offload_frozen) == ("separate", False)


def test_models_that_train_all_their_weights_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"ppo\.backbone.*: .*set model\.lora, or backbone: separate"):
        load_recipe(recipe_of(tmp_path, {"backbone": "shared"}).path)


def test_a_shared_backbone_is_not_offloaded(tmp_path):
    ppo = {"backbone": "shared", "offload_frozen": True}
    with pytest.raises(RecipeError, match=r"ppo\.offload_frozen.*: .*leave offload_frozen out"):
        load_recipe(recipe_of(tmp_path, ppo, LORA).path)
