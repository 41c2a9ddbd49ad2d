"""Which reward models PPO waits for, what is pinned and kept, and which change of a source builds PPO anew."""

import pytest
from fake_stages import FakeStages
from tiny import TinyRecipe

from rlhf.errors import StageError, UsageError
from rlhf.pipeline.pins import needed_references
from rlhf.recipe import load_recipe
from rlhf.stages.inputs import StageInputs, stage_inputs

OWN = "{name: own, model: recipe}"
OTHER = "{name: other, model: registry:other-reward}"
SERVICE = "{name: judge, url: http://127.0.0.1:9/}"
FUNCTION = "{name: words, function: words:score}"
PLAIN = "ppo.shaping.normalize=none"


@pytest.fixture
def words(tiny_recipe: TinyRecipe):
    """A reward function beside the recipe."""
    file = tiny_recipe.folder / "words.py"
    file.write_text("def score(prompts, responses, metadata):\n    return [0.0] * len(prompts)\n")
    return file


def listed(*sources):
    return f"ppo.rewards=[{', '.join(sources)}]"


def ppo_inputs(recipe: TinyRecipe) -> StageInputs:
    return StageInputs.model_validate_json((recipe.run / "ppo" / "inputs.json").read_text())


def test_the_reward_stage_is_run_where_a_source_or_the_gold_judge_means_its_model(
    run, stages: FakeStages, words
):
    run(PLAIN, listed(FUNCTION), stage="sft")
    run(PLAIN, listed(FUNCTION), stage="ppo")
    assert stages.ran == ["ppo"]
    for overrides in ([listed(FUNCTION, OWN)], [listed(FUNCTION), f"ppo.evaluation.gold={OWN}"]):
        with pytest.raises(UsageError, match="the reward stage was left out"):
            run(PLAIN, *overrides, stage="ppo")


def test_every_reward_model_of_the_list_and_the_gold_judge_is_pinned(
    run, stages: FakeStages, tiny_recipe: TinyRecipe
):
    run("ppo=null")
    run("ppo=null", "reward.seed=4", "reward.publish_as=other-reward")
    run(
        PLAIN, listed(OWN, OTHER, SERVICE), "ppo.evaluation.gold={name: gold, model: registry:other-reward@1}"
    )
    assert stages.ran == ["ppo"]
    inputs = ppo_inputs(tiny_recipe)
    assert inputs.reward_model is None
    named = {name: model.reference for name, model in inputs.reward_models.items()}
    assert named == {"own": "tiny-reward@1", "other": "other-reward@1", "gold": "other-reward@1"}
    assert {model.reference for model in inputs.models()} == {"tiny-sft@1", "tiny-reward@1", "other-reward@1"}


def test_what_an_unfinished_stage_scores_with_is_kept(run, stages: FakeStages, tiny_recipe: TinyRecipe):
    run("ppo=null")
    stages.fail_in = "ppo"
    with pytest.raises(StageError, match="exited with 1"):
        run(PLAIN, listed(OWN))
    assert needed_references(tiny_recipe.workspace) == ["tiny-reward@1", "tiny-sft@1"]


@pytest.mark.parametrize(
    "change",
    [
        listed(FUNCTION, SERVICE.replace("}", ", weight: 2.0}")),
        listed(FUNCTION, SERVICE.replace("9/", "9/v2")),
        listed(FUNCTION),
        "ppo.combine=mean",
    ],
)
def test_another_way_of_scoring_builds_ppo_anew(run, stages: FakeStages, words, change):
    run(PLAIN, listed(FUNCTION, SERVICE))
    text = run(PLAIN, listed(FUNCTION, SERVICE), change)
    assert stages.ran == ["ppo"], text


def test_how_patiently_a_service_is_asked_changes_nothing(run, stages: FakeStages, words):
    gold = "ppo.evaluation.gold={name: gold, url: 'http://127.0.0.1:9/gold'"
    run(PLAIN, listed(FUNCTION, SERVICE), f"{gold}}}")
    patient = SERVICE.replace("}", ", timeout_seconds: 9, retries: 1, backoff_seconds: 3, batch_size: 2}")
    run(PLAIN, listed(FUNCTION, patient), f"{gold}, retries: 0}}")
    assert stages.ran == []


def test_a_reward_function_counts_by_its_content(run, stages: FakeStages, words):
    run(PLAIN, listed(FUNCTION))
    run(PLAIN, listed(FUNCTION))
    assert stages.ran == []
    words.write_text(words.read_text().replace("0.0", "1.0"))
    text = run(PLAIN, listed(FUNCTION))
    assert stages.ran == ["ppo"]
    assert "code.words" in text


def test_a_function_that_is_not_there_stops_the_run_before_the_first_stage(run, stages: FakeStages, words):
    with pytest.raises(UsageError) as caught:
        run(PLAIN, listed("{name: a, function: words:scor}", "{name: b, function: wrods:score}"))
    assert "a: words:scor: " in str(caught.value)
    assert "b: wrods:score: there is no module wrods" in str(caught.value)
    assert stages.ran == []


def test_a_recipe_without_a_list_has_the_digest_it_would_have_without_the_field(tiny_recipe: TinyRecipe):
    recipe = load_recipe(tiny_recipe.path)
    empty = stage_inputs(recipe, "ppo", policy=None, reward_model=None, data={}, reward_models={})
    absent = stage_inputs(recipe, "ppo", policy=None, reward_model=None, data={})
    assert empty.digest == absent.digest
    assert StageInputs.model_validate(empty.model_dump(exclude={"reward_models"})) == empty
