"""What the pipeline hands to a stage's process: exact versions of everything, in `<run>/<stage>/inputs.json`. No torch."""

import hashlib
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict

from rlhf.recipe import SPLITS_OF, Recipe, Stage, digest_of

RECIPE_FILE = "recipe.json"
INPUTS_FILE = "inputs.json"
METRICS_FILE = "metrics.jsonl"
LOG_FILE = "log.txt"
DONE_FILE = "published.json"
STOPPED_FILE = "stopped"
STOPPED_EXIT_CODE = 75

NOT_INPUTS = {
    "keep_checkpoints",
    "publish_as",
    "gradient_checkpointing",
    "max_ratio_deviation",
    "per_device_rollout_batch_size",
}
"""Fields of a stage that do not change what it makes."""


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


class StageInputs(BaseModel):
    """All that decides a stage's result.

    Attributes:
        stage: its name.
        policy: the causal LM that it starts from; None: from scratch.
        reward_model: what PPO optimises.
        data: split -> SHA-256.
        settings: dotted key -> value, of everything in the recipe that counts for this stage.
        digest: over all of this; equal digests mean an equal result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    policy: ModelInput | None
    reward_model: ModelInput | None
    data: dict[str, str]
    settings: dict[str, Any]
    digest: str


def stage_inputs(
    recipe: Recipe,
    stage: Stage,
    *,
    policy: ModelInput | None,
    reward_model: ModelInput | None,
    data: dict[str, str],
) -> StageInputs:
    """Collect and digest what decides a stage's result; where data lie does not count, their content does."""
    splits = recipe.splits(stage).model_dump(mode="json", exclude_none=True)
    mapping = {split: {key: source[key] for key in ("columns", "extra")} for split, source in splits.items()}
    settings = flatten(
        {
            stage: recipe.section(stage).model_dump(mode="json", exclude=NOT_INPUTS),
            "seed": recipe.stage_seed(stage),
            "model": recipe.model.model_dump(mode="json", exclude={"path", "revision"})
            | {"chat_template": _content(recipe.model.chat_template)},
            "data": {"chat": recipe.data.chat, SPLITS_OF[stage]: mapping},
            "launch": {"mixed_precision": recipe.launch.mixed_precision},
        }
    )
    decides = {
        "policy": policy.model_dump() if policy else None,
        "reward_model": reward_model.model_dump() if reward_model else None,
        "data": data,
        "settings": settings,
    }
    return StageInputs(
        stage=stage,
        policy=policy,
        reward_model=reward_model,
        data=data,
        settings=settings,
        digest=digest_of({"stage": stage, **decides}),
    )


def _content(path: str | None) -> str | None:
    """SHA-256 of a file that the recipe names: what it says counts, not where it lies."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path is not None else None


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
