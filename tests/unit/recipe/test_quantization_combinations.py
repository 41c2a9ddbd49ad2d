"""When a base cannot be held in 4 bits, said as soon as the recipe is read; what older runs were made of stays the same."""

import pytest
from tiny import TinyRecipe, write_tiny_recipe

from rlhf.errors import RecipeError
from rlhf.recipe import load_recipe
from rlhf.stages.inputs import stage_inputs

ROWS = {"per_device_batch_size": 4}


def recipe_of(folder, strategy="ddp", **model) -> TinyRecipe:
    recipe = write_tiny_recipe(folder)
    lora = {"path": "owner/base", "revision": "0" * 40, "lora": {"r": 4, "quantize": "nf4"}}
    launch = {"strategy": strategy, "num_processes": 2}
    sections = {name: {**recipe.sections()[name], **ROWS} for name in ("sft", "reward", "ppo")}
    recipe.write(recipe.sections() | sections | {"model": model or lora, "launch": launch})
    return recipe


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
def test_ddp_and_zero_may_hold_the_base_in_4_bits(tmp_path, strategy):
    read = load_recipe(recipe_of(tmp_path, strategy).path)
    assert read.model.lora is not None
    assert read.model.lora.quantize == "nf4"


def test_fsdp2_may_not(tmp_path):
    reason = r"model\.lora\.quantize.*: FSDP2 cannot read its checkpoints again.*ddp, zero1, zero2 or zero3"
    with pytest.raises(RecipeError, match=reason):
        load_recipe(recipe_of(tmp_path, "fsdp2").path)


def test_a_model_from_scratch_has_nothing_to_freeze(tmp_path):
    scratch = {"vocab_size": 320, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_positions": 64}
    with pytest.raises(RecipeError, match=r"model\.lora.*: lora needs a pretrained base"):
        load_recipe(recipe_of(tmp_path, scratch=scratch, lora={"quantize": "nf4"}).path)


def test_4_bits_without_an_adapter_cannot_be_written(tmp_path):
    with pytest.raises(RecipeError, match=r"quantize"):
        load_recipe(recipe_of(tmp_path, path="owner/base", revision="0" * 40, quantize="nf4").path)


def test_other_codes_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"model\.lora\.quantize.*nf4"):
        load_recipe(recipe_of(tmp_path, path="owner/base", revision="0" * 40, lora={"quantize": "int3"}).path)


def test_it_counts_among_what_decides_a_stages_result_and_its_absence_does_not(tmp_path):
    """A run with LoRA that was finished before the setting existed is not built anew."""

    def settings(**lora):
        recipe = load_recipe(
            recipe_of(tmp_path, path="owner/base", revision="0" * 40, lora={"r": 4, **lora}).path
        )
        return stage_inputs(recipe, "sft", policy=None, reward_model=None, data={}).settings

    assert settings(quantize="nf4")["model.lora.quantize"] == "nf4"
    assert "model.lora.quantize" not in settings()
    assert settings()["model.lora.r"] == 4
