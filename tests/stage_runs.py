"""Running single stages of the tiny recipe inside the test's own process, without the pipeline around them."""

from pathlib import Path

from tiny import write_tiny_recipe

from rlhf.pipeline.pins import Pins, outside_model
from rlhf.recipe import Recipe, Stage, load_recipe
from rlhf.registry import Artefact, Registry
from rlhf.stages.context import StageContext
from rlhf.stages.inputs import ModelInput, registry_folder, run_folder, stage_inputs
from rlhf.stages.ppo import run as run_ppo
from rlhf.stages.reward import run as run_reward
from rlhf.stages.sft import run as run_sft

RUNNERS = {"sft": run_sft, "reward": run_reward, "ppo": run_ppo}


def tiny(folder: Path, changes=None) -> Recipe:
    """The tiny recipe with some values replaced, its paths absolute."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe(write_tiny_recipe(folder, changes).path, [f"workspace={folder / 'workspace'}"])
    data = recipe.data.model_dump(mode="json", exclude_none=True)
    for splits in (data["sft"], data["preference"], data["prompts"]):
        for source in splits.values():
            source["path"] = str(folder / source["path"])
    return Recipe.model_validate(recipe.model_dump(mode="json") | {"data": data})


def context_of(recipe: Recipe, stage: Stage, made: dict[str, Artefact] | None = None) -> StageContext:
    """A stage's context; `made` are the artefacts of the stages before it."""
    made = made or {}

    def given(name):
        return ModelInput(reference=made[name].reference, digest=made[name].digest) if name in made else None

    policy = given("sft") if stage != "sft" else None
    if policy is None and recipe.model.path is not None:
        registry = Registry(registry_folder(recipe))
        policy = outside_model(recipe, Pins(run_folder(recipe)), registry, recipe.model.path)
    inputs = stage_inputs(
        recipe,
        stage,
        policy=policy,
        reward_model=given("reward") if stage == "ppo" else None,
        data={"x": "0"},
    )
    context = StageContext(recipe, inputs, run_folder(recipe))
    context.folder.mkdir(parents=True, exist_ok=True)
    return context


def run_stage_here(recipe: Recipe, stage: Stage, made: dict[str, Artefact] | None = None) -> Artefact | None:
    """Run a stage to its end; its artefact, or None where it was stopped."""
    context = context_of(recipe, stage, made)
    if not RUNNERS[stage](context):
        return None
    artefact = context.registry.find(recipe.artefact_name(stage), context.inputs.digest)
    assert artefact is not None
    return artefact
