"""What evaluation needs is asked for before anything runs."""

import pytest
from tiny import TinyRecipe, write_tiny_recipe

from rlhf.errors import RecipeError
from rlhf.recipe import load_recipe


@pytest.fixture
def recipe(tmp_path) -> TinyRecipe:
    return write_tiny_recipe(tmp_path)


def faults(recipe, *overrides):
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe.path, list(overrides))
    return str(error.value)


@pytest.mark.parametrize(
    "knob",
    [
        "select_best=eval/scores",
        "best_of_n=4",
        "kl_budget=5.0",
        "gold={name: judge, model: recipe}",
        "patience=2",
    ],
)
def test_what_looks_at_held_out_prompts_needs_some(recipe, knob):
    text = faults(recipe, "data.prompts.eval=null", f"ppo.evaluation.{knob}")
    name = knob.partition("=")[0]
    assert f"ppo.evaluation.{name}: {name} needs held-out prompts: add data.prompts.eval" in text


def test_patience_needs_something_to_wait_for(recipe):
    text = faults(recipe, "ppo.evaluation.patience=2")
    assert "ppo.evaluation.patience: patience waits for a higher value of select_best" in text


def test_all_of_it_together_is_fine(recipe):
    section = load_recipe(
        recipe.path,
        [
            "ppo.evaluation.patience=2",
            "ppo.evaluation.select_best=eval/gold_scores",
            "ppo.evaluation.best_of_n=16",
            "ppo.evaluation.kl_budget=20",
            "ppo.evaluation.gold={name: judge, model: recipe}",
        ],
    ).ppo
    assert section is not None
    assert section.evaluation.best_of_n == 16
    assert section.evaluation.gold is not None
