"""The whole recipe: one file, one run. Sections check themselves; `cross_faults` checks them against each other."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field

from rlhf.recipe.base import Section
from rlhf.recipe.data import DataSection, Splits
from rlhf.recipe.model import ModelSection
from rlhf.recipe.ppo import PPOSection
from rlhf.recipe.training import RewardSection, SFTSection, TrainingSection

Stage = Literal["sft", "reward", "ppo"]
STAGES: tuple[Stage, ...] = ("sft", "reward", "ppo")
SPLITS_OF: dict[Stage, str] = {"sft": "sft", "reward": "preference", "ppo": "prompts"}


class LaunchSection(Section):
    """How a stage's processes start."""

    num_processes: int = Field(1, ge=1)
    """Processes on this machine, one a GPU (or a share of the CPU's cores)."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """`auto`: bfloat16 autocast over float32 weights on a GPU that has it, float32 on a CPU."""
    accelerate_config: str | None = None
    """An Accelerate configuration file (see recipes/accelerate/), for DeepSpeed, FSDP or several machines."""


class Recipe(Section):
    """One run: a base model, data, and the stages that turn them into an aligned model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    """Name of the run, and of its artefacts: `<name>-sft`, `<name>-reward`, `<name>-ppo`."""
    workspace: str = "workspace"
    """Folder of runs and registry, relative to where the command is called."""
    seed: int = Field(0, ge=0)
    """Seed of every stage that does not set its own."""
    model: ModelSection
    """The model that everything starts from."""
    data: DataSection
    """Where the records come from."""
    sft: SFTSection | None = None
    """Supervised fine-tuning; where left out, `model` is taken as fine-tuned."""
    reward: RewardSection | None = None
    """Reward model; where left out, PPO needs `ppo.reward_model`."""
    ppo: PPOSection | None = None
    """PPO."""
    launch: LaunchSection = LaunchSection()
    """Processes, precision, Accelerate configuration."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(default_factory=list)
    """Experiment trackers besides `metrics.jsonl`, which is always written."""

    def stages(self) -> list[Stage]:
        """The stages that this recipe has, in order."""
        return [stage for stage in STAGES if getattr(self, stage) is not None]

    def section(self, stage: Stage) -> SFTSection | RewardSection | PPOSection:
        """The stage's section; the stage must be one of `stages()`."""
        section = getattr(self, stage)
        assert section is not None, f"recipe has no {stage} section"
        return section

    def artefact_name(self, stage: Stage) -> str:
        """The name under which the stage publishes."""
        section = getattr(self, stage)
        return (section.publish_as if section is not None else None) or f"{self.name}-{stage}"

    def splits(self, stage: Stage) -> Splits:
        """The data of a stage; `cross_faults` has made sure that it is there."""
        splits = getattr(self.data, SPLITS_OF[stage])
        assert splits is not None, f"recipe has no data for {stage}"
        return splits

    def stage_seed(self, stage: Stage) -> int:
        """The stage's own seed, or the recipe's."""
        seed = self.section(stage).seed
        return self.seed if seed is None else seed

    def digest(self) -> str:
        """SHA-256 of the resolved recipe as canonical JSON: what the run is known by."""
        return digest_of(self.model_dump(mode="json"))


def digest_of(value: object) -> str:
    """SHA-256 over canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


Parts = Mapping[str, object]
"""Top-level key -> its validated section; a key that failed to validate is missing from it."""


def cross_faults(parts: Parts) -> Iterator[tuple[tuple[str, ...], str]]:
    """Impossible combinations of sections, as (path in the file, message); sections that are themselves broken are passed over."""
    data, model, launch = parts.get("data"), parts.get("model"), parts.get("launch")
    stages = {stage: parts[stage] for stage in STAGES if parts.get(stage) is not None}
    if not any(stage in parts and parts[stage] is None for stage in STAGES) and not stages:
        return
    if all(stage in parts and parts[stage] is None for stage in STAGES):
        yield (), "no stage: give at least one of sft, reward, ppo"
    if isinstance(data, DataSection):
        yield from _data_faults(stages, data)
    if isinstance(model, ModelSection):
        yield from _model_faults(parts, stages, model)
    if isinstance(launch, LaunchSection):
        yield from _batch_faults(stages, launch.num_processes)
    ppo = stages.get("ppo")
    if (
        isinstance(ppo, PPOSection)
        and "reward" in parts
        and parts["reward"] is None
        and ppo.reward_model is None
    ):
        yield ("ppo",), "PPO needs a reward model: add a reward section, or name one in ppo.reward_model"


def _data_faults(stages: Mapping[str, object], data: DataSection) -> Iterator[tuple[tuple[str, ...], str]]:
    for stage in STAGES:
        section, key = stages.get(stage), SPLITS_OF[stage]
        splits: Splits | None = getattr(data, key)
        if section is not None and splits is None:
            yield ("data",), f"the {stage} stage needs data.{key}"
        needs_eval = isinstance(section, TrainingSection) and section.patience is not None
        if needs_eval and splits is not None and splits.eval is None:
            yield (stage, "patience"), f"early stopping needs a held-out split: add data.{key}.eval"


def _model_faults(
    parts: Parts, stages: Mapping[str, object], model: ModelSection
) -> Iterator[tuple[tuple[str, ...], str]]:
    if model.scratch is None:
        return
    if "sft" in parts and parts["sft"] is None:
        yield (
            ("model", "scratch"),
            "a model from scratch needs an sft stage: its tokenizer is trained on the SFT data",
        )
    positions = model.scratch.max_positions
    for stage in ("sft", "reward"):
        section = stages.get(stage)
        if isinstance(section, TrainingSection) and section.max_length > positions:
            yield (
                (stage, "max_length"),
                f"max_length={section.max_length} exceeds model.scratch.max_positions={positions}",
            )
    ppo = stages.get("ppo")
    if isinstance(ppo, PPOSection) and ppo.max_prompt_length + ppo.sampling.max_new_tokens > positions:
        yield (
            ("ppo",),
            (
                f"max_prompt_length={ppo.max_prompt_length} + sampling.max_new_tokens={ppo.sampling.max_new_tokens} "
                f"exceeds model.scratch.max_positions={positions}"
            ),
        )


def _batch_faults(stages: Mapping[str, object], num_processes: int) -> Iterator[tuple[tuple[str, ...], str]]:
    for stage, section in stages.items():
        if isinstance(section, TrainingSection):
            size, unit = section.global_batch_size, section.per_device_batch_size * num_processes
            if size % unit:
                yield (
                    (stage, "global_batch_size"),
                    f"{size} is not a multiple of per_device_batch_size x launch.num_processes = {unit}",
                )
        if isinstance(section, PPOSection):
            size = section.global_batch_size // section.num_minibatches
            if size % num_processes:
                yield (
                    (stage, "global_batch_size"),
                    f"a minibatch of {size} responses does not divide over launch.num_processes={num_processes}",
                )
