"""What each stage needs: nothing (its artefact is there), its rest (a checkpoint is there), or all of it; and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlhf.checkpoint import Checkpoints
from rlhf.data import check, render_text
from rlhf.errors import DataError, UsageError
from rlhf.pipeline.changed import Changed, differences, parent_was_rebuilt, summary
from rlhf.pipeline.folders import begun_afresh, find_work, read_inputs
from rlhf.pipeline.pins import Pins, outside_model
from rlhf.recipe import Recipe, Stage
from rlhf.recipe.recipe import ReadSplit
from rlhf.recipe.rewards import OWN_MODEL
from rlhf.registry import Artefact, Registry
from rlhf.stages.inputs import DONE_FILE, ModelInput, StageInputs, judges, run_folder, stage_inputs

Action = Literal["reuse", "resume", "build", "refuse"]


@dataclass(frozen=True)
class StagePlan:
    """One stage's fate.

    Attributes:
        stage: its name.
        action: reuse the artefact, resume from a checkpoint, build, or refuse to touch unfinished work of other inputs.
        reason: in words.
        inputs: what decides its result; None where a parent is still to be built.
        artefact: the one to reuse.
        changed: unfinished work of other inputs, to be adopted or refused.
    """

    stage: Stage
    action: Action
    reason: str
    inputs: StageInputs | None
    artefact: Artefact | None = None
    changed: Changed | None = None


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

    def plan(
        self,
        stage: Stage,
        made: Mapping[Stage, Artefact | None],
        *,
        fresh: bool = False,
        adopt_changes: bool = False,
    ) -> StagePlan:
        """Plan a stage.

        Args:
            stage: the stage.
            made: the artefacts of the stages before it; None for one that is still to be built.
            fresh: build it whatever is there.
            adopt_changes: go on from unfinished work of other inputs, where that can be.
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
        return self._unfinished(stage, inputs, work, adopt_changes)

    def inputs(self, stage: Stage, made: Mapping[Stage, Artefact | None]) -> StageInputs:
        """Everything that decides the stage's result."""
        return stage_inputs(
            self.recipe,
            stage,
            policy=self._policy(stage, made),
            reward_model=self._reward_model(stage, made),
            reward_models=self._reward_models(stage, made),
            data={read.key: self._digest(read) for read in self.recipe.reads(stage)},
        )

    def _parents(self, stage: Stage) -> list[Stage]:
        """The recipe's own stages that feed this one."""
        recipe = self.recipe
        parents: list[Stage] = []
        if stage != "sft" and recipe.sft is not None:
            parents.append("sft")
        if stage == "ppo" and self._uses_own_reward_model():
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
        if self.recipe.ppo.rewards:
            return None
        return self._judge(self.recipe.ppo.reward_model or OWN_MODEL, made)

    def _reward_models(self, stage: Stage, made: Mapping[Stage, Artefact | None]) -> dict[str, ModelInput]:
        return {
            source.name: self._judge(source.model, made)
            for source in judges(self.recipe, stage)
            if source.model is not None
        }

    def _judge(self, model: str, made: Mapping[Stage, Artefact | None]) -> ModelInput:
        if model == OWN_MODEL:
            return _input_of(made["reward"])
        return outside_model(self.recipe, self.pins, self.registry, model)

    def _uses_own_reward_model(self) -> bool:
        ppo = self.recipe.ppo
        if ppo is None:
            return False
        is_default = ppo.reward_model is None and not ppo.rewards
        return is_default or any(source.model == OWN_MODEL for source in judges(self.recipe, "ppo"))

    def _digest(self, read: ReadSplit) -> str:
        if read.key not in self._digests:
            digest = self.pins.data_digest(read.source)
            if digest is None:
                report = check(read.source, read.kind, chat=self.recipe.data.chat)
                raise DataError(f"data.{read.key} cannot be read:\n{render_text([report])}")
            self._digests[read.key] = digest
        return self._digests[read.key]

    def _unfinished(
        self, stage: Stage, inputs: StageInputs, work: Path | None, adopt_changes: bool
    ) -> StagePlan:
        if work is None:
            return self._other_work(stage, inputs, adopt_changes)
        newest = Checkpoints(work / "checkpoints").newest()
        if newest is None:
            return StagePlan(stage, "build", "it was interrupted before its first checkpoint", inputs)
        return StagePlan(stage, "resume", f"it was interrupted; goes on from step {newest.step}", inputs)

    def _other_work(self, stage: Stage, inputs: StageInputs, adopt_changes: bool) -> StagePlan:
        """Nothing of these inputs is there: what becomes of other inputs' work in the stage's folder."""
        before = read_inputs(self.folder / stage)
        if before is None:
            return StagePlan(stage, "build", "nothing of it is there yet", inputs)
        parents = [self.recipe.artefact_name(parent) for parent in self._parents(stage)]
        step = None if parent_was_rebuilt(before, inputs, parents) else self._unpublished_step(stage, before)
        found = differences(before, inputs, step or 0)
        if step is None:
            return StagePlan(stage, "build", f"changed since it last ran: {summary(found)}", inputs)
        changed = Changed(stage, step, tuple(found))
        if adopt_changes and changed.adoptable:
            reason = f"goes on from step {step} with changes: {summary(found)}"
            return StagePlan(stage, "resume", reason, inputs, changed=changed)
        reason = f"unfinished work of other inputs is there: {summary(found)}"
        return StagePlan(stage, "refuse", reason, inputs, changed=changed)

    def _unpublished_step(self, stage: Stage, before: StageInputs) -> int | None:
        """The newest checkpoint's step of work in the stage's folder from which nothing was published."""
        folder = self.folder / stage
        name = self.recipe.artefact_name(stage)
        is_published = self.registry.find(name, before.digest) is not None and not begun_afresh(folder)
        if (folder / DONE_FILE).is_file() or is_published:
            return None
        newest = Checkpoints(folder / "checkpoints").newest()
        return None if newest is None else newest.step


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
