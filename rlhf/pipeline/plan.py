"""What each stage needs: nothing (its artefact is there), its rest (a checkpoint is there), or all of it; and why."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf.checkpoint import Checkpoints
from rlhf.data import check, render_text
from rlhf.errors import DataError, UsageError
from rlhf.pipeline.folders import begun_afresh, find_work, read_inputs
from rlhf.pipeline.pins import Pins, outside_model
from rlhf.pipeline.preflight import KIND_OF
from rlhf.recipe import SPLITS_OF, DataSource, Recipe, Stage
from rlhf.registry import Artefact, Registry
from rlhf.stages.inputs import ModelInput, StageInputs, run_folder, stage_inputs

Action = Literal["reuse", "resume", "build"]


@dataclass(frozen=True)
class StagePlan:
    """One stage's fate.

    Attributes:
        stage: its name.
        action: reuse the artefact, resume from a checkpoint, or build.
        reason: in words.
        inputs: what decides its result; None where a parent is still to be built.
        artefact: the one to reuse.
    """

    stage: Stage
    action: Action
    reason: str
    inputs: StageInputs | None
    artefact: Artefact | None = None


class Planner:
    """Decides stage by stage, as the parents' artefacts become known."""

    def __init__(self, recipe: Recipe, registry: Registry, pins: Pins) -> None:
        self.recipe = recipe
        self.registry = registry
        self.pins = pins
        self.folder = run_folder(recipe)
        self._digests: dict[str, str] = {}

    def needed(self, chosen: Sequence[Stage]) -> list[Stage]:
        """The chosen stages and those that they start from, in order."""
        needed: set[Stage] = set(chosen)
        for stage in reversed(self.recipe.stages()):
            if stage in needed:
                needed |= set(self._parents(stage))
        return [stage for stage in self.recipe.stages() if stage in needed]

    def plan(self, stage: Stage, made: Mapping[Stage, Artefact | None], *, fresh: bool = False) -> StagePlan:
        """Plan a stage.

        Args:
            stage: the stage.
            made: the artefacts of the stages before it; None for one that is still to be built.
            fresh: build it whatever is there.
        """
        waiting = [parent for parent in self._parents(stage) if made.get(parent, False) is None]
        if waiting:
            inputs_are = "input {} is" if len(waiting) == 1 else "inputs {} are"
            reason = f"its {inputs_are.format(' and '.join(waiting))} built anew"
            return StagePlan(stage, "build", reason, None)
        inputs = self.inputs(stage, made)
        if fresh:
            return StagePlan(stage, "build", "--fresh was given", inputs)
        work = find_work(self.folder, stage, inputs.digest)
        artefact = self.registry.find(self.recipe.artefact_name(stage), inputs.digest)
        if artefact is not None and not begun_afresh(work):
            reason = f"{artefact.reference} was made from the same inputs"
            return StagePlan(stage, "reuse", reason, inputs, artefact)
        return self._unfinished(stage, inputs, work)

    def inputs(self, stage: Stage, made: Mapping[Stage, Artefact | None]) -> StageInputs:
        """Everything that decides the stage's result."""
        return stage_inputs(
            self.recipe,
            stage,
            policy=self._policy(stage, made),
            reward_model=self._reward_model(stage, made),
            data=self._data(stage),
        )

    def _parents(self, stage: Stage) -> list[Stage]:
        """The recipe's own stages that feed this one."""
        recipe = self.recipe
        parents: list[Stage] = []
        if stage != "sft" and recipe.sft is not None:
            parents.append("sft")
        if stage == "ppo" and recipe.ppo is not None and recipe.ppo.reward_model is None:
            parents.append("reward")
        return parents

    def _policy(self, stage: Stage, made: Mapping[Stage, Artefact | None]) -> ModelInput | None:
        recipe = self.recipe
        if stage != "sft" and recipe.sft is not None:
            return _input_of(made["sft"])
        if recipe.model.path is None:
            return None
        return outside_model(recipe, self.pins, self.registry, recipe.model.path)

    def _reward_model(self, stage: Stage, made: Mapping[Stage, Artefact | None]) -> ModelInput | None:
        if stage != "ppo":
            return None
        assert self.recipe.ppo is not None
        given = self.recipe.ppo.reward_model
        if given is None:
            return _input_of(made["reward"])
        return outside_model(self.recipe, self.pins, self.registry, given)

    def _data(self, stage: Stage) -> dict[str, str]:
        splits = self.recipe.splits(stage)
        named = (("train", splits.train), ("eval", splits.eval))
        digests: dict[str, str] = {}
        for split, source in named:
            if source is not None:
                key = f"{SPLITS_OF[stage]}.{split}"
                digests[key] = self._digest(stage, key, source)
        return digests

    def _digest(self, stage: Stage, key: str, source: DataSource) -> str:
        if key not in self._digests:
            digest = self.pins.data_digest(source)
            if digest is None:
                report = check(source, KIND_OF[stage], chat=self.recipe.data.chat)
                raise DataError(f"data.{key} cannot be read:\n{render_text([report])}")
            self._digests[key] = digest
        return self._digests[key]

    def _unfinished(self, stage: Stage, inputs: StageInputs, work: Path | None) -> StagePlan:
        if work is None:
            before = read_inputs(self.folder / stage)
            if before is None:
                return StagePlan(stage, "build", "nothing of it is there yet", inputs)
            reason = f"changed since it last ran: {_difference(before, inputs)}"
            return StagePlan(stage, "build", reason, inputs)
        newest = Checkpoints(work / "checkpoints").newest()
        if newest is None:
            return StagePlan(stage, "build", "it was interrupted before its first checkpoint", inputs)
        return StagePlan(stage, "resume", f"it was interrupted; goes on from step {newest.step}", inputs)


def require_made(stage: Stage, plan: StagePlan) -> Artefact:
    """The artefact of a stage that the call left out.

    Raises:
        UsageError: it is not there, or not for these inputs.
    """
    if plan.artefact is None:
        raise UsageError(
            f"the {stage} stage was left out, but its artefact is not there: {plan.reason}",
            f"Run it too: leave --stage and --from away, or start with --from {stage}.",
        )
    return plan.artefact


def _input_of(artefact: Artefact | None) -> ModelInput:
    assert artefact is not None
    return ModelInput(reference=artefact.reference, digest=artefact.digest)


def _difference(before: StageInputs, after: StageInputs) -> str:
    old, new = before.model_dump(), after.model_dump()
    changed: list[str] = []
    for name, value in sorted(new["settings"].items()):
        if old["settings"].get(name) != value:
            changed.append(f"{name} {json.dumps(old['settings'].get(name))} -> {json.dumps(value)}")
    for name in ("policy", "reward_model"):
        if old[name] != new[name]:
            changed.append(f"{name} {_name(old[name])} -> {_name(new[name])}")
    changed += [f"data {split}" for split, digest in new["data"].items() if old["data"].get(split) != digest]
    return "; ".join(changed[:6]) or "its splits"


def _name(model: dict[str, Any] | None) -> str:
    return "none" if model is None else str(model["reference"] or model["path"])
