"""The runs of the study of KL control are what the study says, and the recipe takes their settings."""

from pathlib import Path
from typing import Any

import pytest
from recipe_scripts import RECIPES, load_script

from rlhf.recipe import Recipe, load_recipe

plan = load_script("movie_reviews/kl_plan.py")
QUICKSTART = RECIPES / "movie_reviews/quickstart.yaml"


def resolved(run: Any) -> Recipe:
    """The recipe that the run's command line stands for."""
    parts = plan.command(run, QUICKSTART, ["workspace=elsewhere"], sft="the-sft", reward="the-reward")
    assert parts[:5] == ["rlhf", "run", str(QUICKSTART), "--stage", "ppo"]
    assert parts[5::2] == ["--set"] * (len(parts[5:]) // 2)
    return load_recipe(Path(parts[2]), parts[6::2])


def test_each_target_is_tried_from_both_sides_and_each_coefficient_is_held_with_three_seeds() -> None:
    runs = plan.planned()
    assert len({run.name for run in runs}) == 12 + 9
    for target, low, high in ((3.0, 0.3, 1.2), (8.0, 0.065, 0.26)):
        tried = [(run.coef, run.seed) for run in runs if run.target == target]
        assert sorted(tried) == [(coef, seed) for coef in (low, high) for seed in (0, 1, 2)]
    fixed = [(run.coef, run.seed) for run in runs if run.target is None]
    assert sorted(fixed) == [(coef, seed) for coef in (0.1, 0.3, 0.9) for seed in (0, 1, 2)]


@pytest.mark.parametrize("run", plan.planned(), ids=lambda run: run.name)
def test_the_recipe_takes_a_runs_settings(run: Any) -> None:
    recipe = resolved(run)
    ppo = recipe.ppo
    assert ppo is not None
    assert recipe.artefact_name("sft") == "the-sft"
    assert recipe.artefact_name("reward") == "the-reward"
    assert recipe.artefact_name("ppo") == run.artefact
    assert recipe.workspace == "elsewhere"
    assert ppo.warmup_fraction * ppo.num_steps == pytest.approx(10)
    if ppo.kl.target is not None:
        assert ppo.kl.horizon == 20 * ppo.global_batch_size
