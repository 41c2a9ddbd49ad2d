"""What the pipeline hands to a stage's process: exact versions of everything, in `<run>/<stage>/inputs.json`. No torch."""

from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from rlhf.recipe import Recipe, Stage, digest_of
from rlhf.recipe.functions import function_file
from rlhf.recipe.rewards import RewardSource
from rlhf.stages.split_settings import content_digest, split_settings

RECIPE_FILE = "recipe.json"
INPUTS_FILE = "inputs.json"
METRICS_FILE = "metrics.jsonl"
LOG_FILE = "log.txt"
DONE_FILE = "published.json"
STOPPED_FILE = "stopped"
STOP_FILE = "stop"
AGAIN_FILE = "again"
ERRORS_FOLDER = "errors"
STOPPED_EXIT_CODE = 75

NOT_INPUTS = {
    "keep_checkpoints",
    "publish_as",
    "gradient_checkpointing",
    "backbone",
    "offload_frozen",
    "max_ratio_deviation",
    "per_device_rollout_batch_size",
    "watch",
    "on_spike",
    "spike_factor",
    "max_rollbacks",
}
"""Fields of a stage that do not change what it makes."""
TRANSPORT = {"batch_size", "timeout_seconds", "retries", "backoff_seconds"}
"""Those of a source of scores: how a service is asked, not what it answers."""
LATER_PPO = {"over_length": "error"}
"""Field -> what was so before it existed: there it counts for nothing, so that older runs stay finished."""
LATER_NESTED = {
    "model.lora.quantize": None,
    "ppo.sampling.vllm": None,
    # A section that says what holds without it is none.
    "ppo.sampling.vllm.mode": "colocate",
    "ppo.sampling.vllm.max_importance_weight": 2.0,
}
"""The same of settings further down, by their dotted keys."""


class ModelInput(BaseModel):
    """A model that the stage starts from, pinned.

    Attributes:
        reference: `name@version` in the registry, or None for one from outside.
        digest: the artefact's digest, or None.
        path: hub id or folder, where it is not in the registry.
        revision: the hub commit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str | None = None
    digest: str | None = None
    path: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return self.reference or str(self.path)


class StageInputs(BaseModel):
    """All that decides a stage's result.

    Attributes:
        stage: its name.
        policy: the causal LM that it starts from; None: from scratch.
        reward_model: what PPO optimises, where the recipe has no list of sources.
        reward_models: source -> model, of the list and of the gold judge.
        data: split -> SHA-256.
        settings: dotted key -> value, of everything in the recipe that counts for this stage.
        digest: over all of this; equal digests mean an equal result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    policy: ModelInput | None
    reward_model: ModelInput | None
    reward_models: dict[str, ModelInput] = Field(default_factory=dict[str, ModelInput])
    data: dict[str, str]
    settings: dict[str, Any]
    digest: str

    def models(self) -> list[ModelInput]:
        """All of them."""
        given = (self.policy, self.reward_model, *self.reward_models.values())
        return [model for model in given if model is not None]


def stage_inputs(
    recipe: Recipe,
    stage: Stage,
    *,
    policy: ModelInput | None,
    reward_model: ModelInput | None,
    data: dict[str, str],
    reward_models: dict[str, ModelInput] | None = None,
) -> StageInputs:
    """Collect and digest what decides a stage's result; where data lie does not count, their content does."""
    mapping = {read.key: split_settings(read, recipe.data.checks) for read in recipe.reads(stage)}
    settings = flatten(
        {
            stage: _section(recipe, stage),
            "seed": recipe.stage_seed(stage),
            "model": recipe.model.model_dump(mode="json", exclude={"path", "revision"})
            | {"chat_template": content_digest(recipe.model.chat_template)},
            "data": {"chat": recipe.data.chat, **mapping},
            "launch": {"mixed_precision": recipe.launch.mixed_precision},
        }
    )
    for key, before in LATER_NESTED.items():
        if key in settings and settings[key] == before:
            del settings[key]
    if stage == "ppo" and recipe.uses_ptx and recipe.sft is not None:
        settings |= {f"sft.{rule}": getattr(recipe.sft, rule) for rule in ("max_length", "over_length")}
    settings |= {f"code.{source.name}": _code(source) for source in judges(recipe, stage) if source.function}
    judging = reward_models or {}
    decides: dict[str, Any] = {
        "policy": policy.model_dump() if policy else None,
        "reward_model": reward_model.model_dump() if reward_model else None,
        "data": data,
        "settings": settings,
    }
    if judging:
        decides["reward_models"] = {name: model.model_dump() for name, model in judging.items()}
    return StageInputs(
        stage=stage,
        policy=policy,
        reward_model=reward_model,
        reward_models=judging,
        data=data,
        settings=settings,
        digest=digest_of({"stage": stage, **decides}),
    )


def judges(recipe: Recipe, stage: Stage) -> list[RewardSource]:
    """The sources of scores that a stage lists, the gold judge last; none but in PPO."""
    if stage != "ppo" or recipe.ppo is None:
        return []
    gold = recipe.ppo.evaluation.gold
    return [*recipe.ppo.rewards, *([gold] if gold is not None else [])]


def _section(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    settings = recipe.section(stage).model_dump(mode="json", exclude=_not_inputs(stage))
    later = {} if stage != "ppo" else LATER_PPO
    return {key: value for key, value in settings.items() if key not in later or value != later[key]}


def _not_inputs(stage: Stage) -> dict[str, Any]:
    left_out: dict[str, Any] = dict.fromkeys(NOT_INPUTS, True)
    if stage != "ppo":
        return left_out
    left_out |= {"sampling": {"vllm": {"server_url", "gpu_memory_utilization", "sleep"}}}
    return left_out | {"rewards": {"__all__": TRANSPORT}, "evaluation": {"gold": TRANSPORT}}


def _code(source: RewardSource) -> str | None:
    """SHA-256 of the file that a reward function lies in; what that file imports does not count."""
    assert source.function is not None
    file = function_file(source.function)
    return None if file is None else content_digest(str(file))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `a.b: value`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(cast(dict[str, Any], value), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def run_folder(recipe: Recipe) -> Path:
    """Where the run keeps its recipe, logs, metrics and checkpoints."""
    return Path(recipe.workspace).absolute() / "runs" / recipe.name


def registry_folder(recipe: Recipe) -> Path:
    """Where the workspace's artefacts lie."""
    return Path(recipe.workspace).absolute() / "registry"
