"""`rlhf run`: pin, plan, check, then run each stage that needs it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rlhf.data import Report
from rlhf.durable import write_atomic
from rlhf.errors import StageError, UsageError
from rlhf.pipeline.folders import adopt, make_room
from rlhf.pipeline.launch import run_stage
from rlhf.pipeline.lock import hold
from rlhf.pipeline.pins import Pins
from rlhf.pipeline.plan import Planner, StagePlan, require_made
from rlhf.pipeline.preflight import (
    check_data,
    check_model,
    check_quantization,
    check_sources,
    check_strategy,
    check_trackers,
    check_vllm,
    check_workspace,
)
from rlhf.pipeline.progress import StageProgress
from rlhf.pipeline.start import start_folder
from rlhf.pipeline.stopped import stop_on_sigterm
from rlhf.pipeline.summary import print_summary
from rlhf.recipe import Recipe, Stage
from rlhf.registry import Artefact, Registry
from rlhf.stages.inputs import LOG_FILE, METRICS_FILE, RECIPE_FILE, registry_folder, run_folder


@dataclass(frozen=True)
class RunOptions:
    """How `rlhf run` was called.

    Attributes:
        recipe_path: as the user wrote it, for the command that resumes.
        overrides: the `--set` values, likewise.
        stage: run this stage alone.
        start: run this stage and those after it.
        fresh: build the chosen stages anew, whatever is there.
        adopt_changes: let unfinished work go on with the recipe's changed settings.
        dry_run: say what would be done, and do nothing.
    """

    recipe_path: str
    overrides: tuple[str, ...] = ()
    stage: Stage | None = None
    start: Stage | None = None
    fresh: bool = False
    adopt_changes: bool = False
    dry_run: bool = False

    def chosen(self, recipe: Recipe) -> list[Stage]:
        """The stages to run.

        Raises:
            UsageError: a stage that the recipe does not have.
        """
        stages = recipe.stages()
        for wanted in (self.stage, self.start):
            if wanted is not None and wanted not in stages:
                raise UsageError(
                    f"stage {wanted}: the recipe has no such section, only {', '.join(stages)}",
                    "Name one of these.",
                )
        if self.stage is not None:
            return [self.stage]
        return stages[stages.index(self.start) :] if self.start is not None else stages

    def command(self) -> str:
        """The call that goes on where this one stopped."""
        words = self._words()
        words += ["--stage", self.stage] if self.stage else []
        words += ["--from", self.start] if self.start else []
        return shlex.join(words)

    def command_for(self, stage: Stage, *options: str) -> str:
        """The call that does something to one stage."""
        return shlex.join([*self._words(), "--stage", stage, *options])

    def _words(self) -> list[str]:
        words = ["rlhf", "run", self.recipe_path]
        return words + [word for override in self.overrides for word in ("--set", override)]


def run_recipe(recipe: Recipe, options: RunOptions, console: Console) -> dict[Stage, Artefact]:
    """Run the chosen stages; what is finished and unchanged is reused, what was interrupted resumes.

    Returns:
        The artefact of every stage that is there.

    Raises:
        RLHFError: any fault that a user can mend; nothing made so far is lost.
        Stopped: a signal stopped it; what a running stage had done was saved.
    """
    chosen = options.chosen(recipe)
    folder = run_folder(recipe)
    if options.dry_run:
        return _Pipeline(recipe, options, Pins(folder, remember=False), console).describe(chosen)
    with stop_on_sigterm(options.command()):
        check_workspace(recipe)
        with hold(folder):
            return _Pipeline(recipe, options, Pins(folder), console).run(chosen)


class _Pipeline:
    def __init__(self, recipe: Recipe, options: RunOptions, pins: Pins, console: Console) -> None:
        self.recipe = pins.resolve(recipe)
        self.options = options
        self.pins = pins
        self.console = console
        self.registry = Registry(registry_folder(recipe))
        self.planner = Planner(self.recipe, self.registry, pins)
        self.folder = run_folder(recipe)
        self.checked = False

    def run(self, chosen: Sequence[Stage]) -> dict[Stage, Artefact]:
        made: dict[Stage, Artefact] = {}
        needed = self._needed(chosen)
        self._survey(needed, chosen)
        for stage in needed:
            plan = self._plan(stage, chosen, made)
            if stage not in chosen:
                made[stage] = require_made(stage, plan)
                continue
            self._say(plan, "")
            if plan.artefact is None:
                self._check_once(chosen[chosen.index(stage) :])
                made[stage] = self._execute(plan)
            else:
                made[stage] = plan.artefact
        if not self.checked:
            self.console.print(Text("Nothing to do: every stage is there, made from these inputs."))
        print_summary(self.console, self.folder, made)
        return made

    def describe(self, chosen: Sequence[Stage]) -> dict[Stage, Artefact]:
        """Say each stage's fate; writes nothing, not even pins."""
        plans = self._survey(self._needed(chosen), chosen)
        for plan in plans:
            if plan.stage in chosen:
                self._say(plan, "would be ")
        return {plan.stage: plan.artefact for plan in plans if plan.artefact is not None}

    def _survey(self, needed: Sequence[Stage], chosen: Sequence[Stage]) -> list[StagePlan]:
        """All plans as far as they are known now, so that what is refused is refused before hours of work."""
        made: dict[Stage, Artefact | None] = {}
        plans: list[StagePlan] = []
        for stage in needed:
            plan = self._plan(stage, chosen, made)
            made[stage] = plan.artefact if stage in chosen else require_made(stage, plan)
            plans.append(plan)
        return plans

    def _needed(self, chosen: Sequence[Stage]) -> list[Stage]:
        """The chosen stages and those that they start from, once the recipe fits this machine."""
        needed = self.planner.needed(chosen)
        check_sources(self.recipe, needed)
        check_strategy(self.recipe)
        check_quantization(self.recipe)
        check_vllm(self.recipe, needed)
        check_trackers(self.recipe)
        return needed

    def _plan(
        self, stage: Stage, chosen: Sequence[Stage], made: Mapping[Stage, Artefact | None]
    ) -> StagePlan:
        """Plan a stage.

        Raises:
            UsageError: it is to run, but unfinished work of other inputs is there.
        """
        options, is_chosen = self.options, stage in chosen
        plan = self.planner.plan(
            stage, made, fresh=options.fresh and is_chosen, adopt_changes=options.adopt_changes and is_chosen
        )
        if plan.action == "refuse" and plan.changed is not None and is_chosen:
            raise plan.changed.refusal(
                go_on=f"{options.command()} --adopt-changes",
                start_anew=options.command_for(stage, "--fresh"),
            )
        return plan

    def _say(self, plan: StagePlan, would: str) -> None:
        word = {"reuse": "reused", "resume": "resumed", "build": "built", "refuse": "refused"}[plan.action]
        self.console.print(Text(f"{plan.stage:<7} {would}{word}: {plan.reason}"), soft_wrap=True)

    def _check_once(self, stages: Sequence[Stage]) -> None:
        """Before the first model is loaded: everything that this and the later stages need."""
        if self.checked:
            return
        self.checked = True
        check_model(self.recipe, start_folder(self.recipe, self.registry, self.pins), stages)
        reports = check_data(self.recipe, stages, self.console)
        self.console.print(Text(f"data    valid: {_describe(reports)}"), soft_wrap=True)
        found = [f"data    {report.path}: {report.found}" for report in reports if report.counts]
        if found:
            found.append(f"data    where: rlhf validate {self.options.recipe_path}")
            self.console.print(Text("\n".join(found)), soft_wrap=True)
        write_atomic(self.folder / RECIPE_FILE, self.recipe.model_dump_json(indent=1).encode())
        write_atomic(self.folder / "recipe.digest", f"{self.recipe.digest()}\n".encode())

    def _execute(self, plan: StagePlan) -> Artefact:
        assert plan.inputs is not None
        stage, folder = plan.stage, self.folder / plan.stage
        if plan.changed is not None:
            changes = [difference.text for difference in plan.changed.differences]
            adopt(folder, plan.inputs, plan.changed.step, changes)
        make_room(folder, plan.inputs, fresh=self.options.fresh)
        if not self.console.is_terminal:
            self.console.print(Text(f"{stage:<7} log: {folder / LOG_FILE}"), soft_wrap=True)
        with StageProgress(self.console, stage, folder / METRICS_FILE) as progress:
            run_stage(
                self.recipe, self.folder, stage, on_poll=progress.poll, resume_with=self.options.command()
            )
        artefact = self.registry.find(self.recipe.artefact_name(stage), plan.inputs.digest)
        if artefact is None:
            raise StageError(f"the {stage} stage ended without publishing; its log: {folder / 'log.txt'}")
        self.console.print(Text(f"{stage:<7} published {artefact.reference}"), soft_wrap=True)
        return artefact


def _describe(reports: Sequence[Report]) -> str:
    return ", ".join(f"{Path(report.path).name} {report.num_rows} rows" for report in reports)
