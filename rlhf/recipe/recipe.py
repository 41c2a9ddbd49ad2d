"""The whole recipe: one file, one run. Fields check themselves; `combinations` checks them against each other."""

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from rlhf.recipe.base import NAME_PATTERN, Section, Seed
from rlhf.recipe.combinations import find_combinations
from rlhf.recipe.data import DataSection, DataSource, RecordKind, Splits
from rlhf.recipe.launch import LaunchSection
from rlhf.recipe.model import ModelSection
from rlhf.recipe.ppo import PPOSection
from rlhf.recipe.preparation import Holdout
from rlhf.recipe.stages import SPLITS_OF, STAGES, Stage
from rlhf.recipe.training import RewardSection, SFTSection
from rlhf.recipe.yamlfile import dotted

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
_KINDS: dict[Stage, RecordKind] = {"sft": "sft", "reward": "preference", "ppo": "prompt"}


class ReadSplit(NamedTuple):
    """A split that a stage reads.

    Attributes:
        key: where it stands under `data`, such as `sft.train`.
        kind: what its records are.
        source: where they come from.
        holdout: what takes held-out rows out of the source.
        part: which of its rows are meant, where there is a holdout.
    """

    key: str
    kind: RecordKind
    source: DataSource
    holdout: Holdout | None = None
    part: Literal["all", "train", "held_out"] = "all"


class Recipe(Section):
    """One run: a base model, data, and the stages that turn them into an aligned model."""

    name: str = Field(pattern=NAME_PATTERN, max_length=80)
    """Name of the run, and of its artefacts: `<name>-sft`, `<name>-reward`, `<name>-ppo`."""
    workspace: str = "workspace"
    """Folder of runs and registry, relative to where the command is called."""
    seed: Seed = 0
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
    """Processes, machines, precision, strategy."""
    trackers: list[Tracker] = Field(default_factory=list[Tracker])
    """Experiment trackers besides `metrics.jsonl`, which is always written."""

    @model_validator(mode="after")
    def _possible(self) -> "Recipe":
        faults = [f"{dotted(where)}: {message}" for where, message in find_combinations(self.model_dump())]
        if faults:
            raise ValueError("\n".join(faults))
        return self

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
        """The data of a stage; `find_combinations` has made sure that it is there."""
        splits = getattr(self.data, SPLITS_OF[stage])
        assert splits is not None, f"recipe has no data for {stage}"
        return splits

    def reads(self, stage: Stage) -> list[ReadSplit]:
        """Every split that the stage reads: its own, and the demonstrations where PPO-ptx trains on them too."""
        own, group, kind = self.splits(stage), SPLITS_OF[stage], _KINDS[stage]
        reads = [_train(group, kind, own)]
        if own.eval is not None:
            reads.append(ReadSplit(f"{group}.eval", kind, own.eval))
        elif own.holdout is not None:
            reads.append(ReadSplit(f"{group}.eval", kind, own.train, own.holdout, "held_out"))
        if stage == "ppo" and self.uses_ptx:
            reads.append(_train("sft", "sft", self.splits("sft")))
        return reads

    def all_reads(self, stages: Sequence[Stage]) -> list[ReadSplit]:
        """Every split that any of the stages reads, each once."""
        return list({read.key: read for stage in stages for read in self.reads(stage)}.values())

    @property
    def uses_ptx(self) -> bool:
        """Whether PPO adds the SFT loss on `data.sft.train` (PPO-ptx)."""
        return self.ppo is not None and self.ppo.ptx_coef > 0

    def stage_seed(self, stage: Stage) -> int:
        """The stage's own seed, or the recipe's."""
        seed = self.section(stage).seed
        return self.seed if seed is None else seed

    def digest(self) -> str:
        """SHA-256 of the resolved recipe as canonical JSON: what the run is known by."""
        return digest_of(self.model_dump(mode="json"))


def _train(group: str, kind: RecordKind, splits: Splits) -> ReadSplit:
    part = "all" if splits.holdout is None else "train"
    return ReadSplit(f"{group}.train", kind, splits.train, splits.holdout, part)


def digest_of(value: object) -> str:
    """SHA-256 over canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
