"""`rlhf run`: pin, plan, check, then run each stage that needs it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rlhf.data import Report
from rlhf.durable import write_atomic
from rlhf.errors import StageError, UsageError
from rlhf.pipeline.launch import run_stage
from rlhf.pipeline.lock import hold
from rlhf.pipeline.pins import Pins
from rlhf.pipeline.plan import Planner, StagePlan, aside, read_inputs, require_made
from rlhf.pipeline.preflight import check_data, check_model, check_workspace
from rlhf.pipeline.progress import StageProgress
from rlhf.pipeline.summary import print_summary
from rlhf.recipe import Recipe, Stage
from rlhf.registry import Artefact, Registry
from rlhf.stages.inputs import (
    INPUTS_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    StageInputs,
    registry_folder,
    run_folder,
)


@dataclass(frozen=True)
class RunOptions:
    """How `rlhf run` was called.

    Attributes:
        recipe_path: as the user wrote it, for the command that resumes.
        overrides: the `--set` values, likewise.
        stage: run this stage alone.
        start: run this stage and those after it.
        fresh: build the chosen stages anew, whatever is there.
        dry_run: say what would be done, and do nothing.
    """

    recipe_path: str
    overrides: tuple[str, ...] = ()
    stage: Stage | None = None
    start: Stage | None = None
    fresh: bool = False
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
        words = ["rlhf", "run", self.recipe_path]
        words += [word for override in self.overrides for word in ("--set", override)]
        words += ["--stage", self.stage] if self.stage else []
        words += ["--from", self.start] if self.start else []
        return shlex.join(words)


def run_recipe(recipe: Recipe, options: RunOptions, console: Console) -> dict[Stage, Artefact]:
    """Run the chosen stages; what is finished and unchanged is reused, what was interrupted resumes.

    Returns:
        The artefact of every stage that is there.

    Raises:
        RLHFError: any fault that a user can mend; nothing made so far is lost.
        Stopped: a signal stopped a stage after it saved.
    """
    chosen = options.chosen(recipe)
    folder = run_folder(recipe)
    if options.dry_run:
        _dry_run(recipe, options, chosen, console)
        return {}
    check_workspace(recipe)
    with hold(folder):
        pins = Pins(folder)
        recipe = pins.resolve(recipe)
        registry = Registry(registry_folder(recipe))
        planner = Planner(recipe, registry, pins)
        pipeline = _Pipeline(recipe, options, planner, registry, console)
        return pipeline.run(chosen)


class _Pipeline:
    def __init__(
        self, recipe: Recipe, options: RunOptions, planner: Planner, registry: Registry, console: Console
    ) -> None:
        self.recipe = recipe
        self.options = options
        self.planner = planner
        self.registry = registry
        self.console = console
        self.folder = run_folder(recipe)
        self.checked = False

    def run(self, chosen: Sequence[Stage]) -> dict[Stage, Artefact]:
        made: dict[Stage, Artefact | None] = {}
        for stage in self.recipe.stages():
            if stage not in chosen:
                if self.recipe.stages().index(stage) < self.recipe.stages().index(chosen[0]):
                    made[stage] = require_made(stage, self.planner.plan(stage, made))
                continue
            plan = self.planner.plan(stage, made, fresh=self.options.fresh)
            self._say(plan)
            if plan.artefact is None:
                self._check_once(chosen[chosen.index(stage) :])
                made[stage] = self._execute(plan)
            else:
                made[stage] = plan.artefact
        artefacts = {stage: artefact for stage, artefact in made.items() if artefact is not None}
        if not self.checked:
            self.console.print(Text("Nothing to do: every stage is there, made from these inputs."))
        print_summary(self.console, self.folder, artefacts)
        return artefacts

    def _say(self, plan: StagePlan) -> None:
        word = {"reuse": "reused", "resume": "resumed", "build": "built"}[plan.action]
        self.console.print(Text(f"{plan.stage:<7} {word}: {plan.reason}"), soft_wrap=True)

    def _check_once(self, stages: Sequence[Stage]) -> None:
        """Before the first model is loaded: everything that this and the later stages need."""
        if self.checked:
            return
        self.checked = True
        reports = check_data(self.recipe, stages)
        check_model(self.recipe, self._start_folder(), stages)
        self.console.print(Text(f"data    valid: {_describe(reports)}"), soft_wrap=True)
        write_atomic(self.folder / RECIPE_FILE, self.recipe.model_dump_json(indent=1).encode())
        write_atomic(self.folder / "recipe.digest", f"{self.recipe.digest()}\n".encode())

    def _start_folder(self) -> Path | None:
        path = self.recipe.model.path
        return Path(path) if path is not None and Path(path).is_dir() else None

    def _execute(self, plan: StagePlan) -> Artefact:
        assert plan.inputs is not None
        stage, folder = plan.stage, self.folder / plan.stage
        if self.options.fresh and folder.exists():
            _set_aside(folder, read_inputs(folder))
        make_room(folder, plan.inputs)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / INPUTS_FILE, plan.inputs.model_dump_json(indent=1).encode())
        with StageProgress(self.console, stage, folder / METRICS_FILE) as progress:
            run_stage(
                self.recipe, self.folder, stage, on_poll=progress.poll, resume_with=self.options.command()
            )
        artefact = self.registry.find(self.recipe.artefact_name(stage), plan.inputs.digest)
        if artefact is None:
            raise StageError(f"the {stage} stage ended without publishing; its log: {folder / 'log.txt'}")
        self.console.print(Text(f"{stage:<7} published {artefact.reference}"), soft_wrap=True)
        return artefact


def make_room(folder: Path, inputs: StageInputs) -> None:
    """Let the stage's folder hold these inputs' work: another's is set aside under its digest, an earlier one comes back."""
    before = read_inputs(folder)
    if before is not None and before.digest == inputs.digest:
        return
    if folder.exists():
        _set_aside(folder, before)
    returning = aside(folder, inputs)
    if returning.exists():
        returning.rename(folder)


def _set_aside(folder: Path, before: StageInputs | None) -> None:
    target = folder.with_name(f"{folder.name}.unknown") if before is None else aside(folder, before)
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{target.name.split('~')[0]}~{number}")
    folder.rename(target)


def _dry_run(recipe: Recipe, options: RunOptions, chosen: Sequence[Stage], console: Console) -> None:
    """Print each stage's fate; writes nothing, not even pins."""
    registry = Registry(registry_folder(recipe))
    planner = Planner(recipe, registry, Pins(run_folder(recipe)))
    made: dict[Stage, Artefact | None] = {}
    for stage in recipe.stages():
        plan = planner.plan(stage, made, fresh=options.fresh and stage in chosen)
        made[stage] = plan.artefact
        if stage in chosen:
            console.print(Text(f"{stage:<7} would be {_would(plan)}: {plan.reason}"), soft_wrap=True)


def _would(plan: StagePlan) -> str:
    return {"reuse": "reused", "resume": "resumed", "build": "built"}[plan.action]


def _describe(reports: Sequence[Report]) -> str:
    return ", ".join(f"{Path(report.path).name} {report.num_rows} rows" for report in reports)
