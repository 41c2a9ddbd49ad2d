"""One step of SFT or of the reward model on rows of very different lengths, in this process or spread over several."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stage_runs import context_of, tiny
from tiny import environment, write_rows

from rlhf.pipeline.strategy import launcher_command, strategy_environment
from rlhf.recipe import Recipe, Stage
from rlhf.registry import Artefact
from rlhf.stages.inputs import INPUTS_FILE, RECIPE_FILE, run_folder

LENGTHS = (1, 2, 20, 40, 3, 30, 12, 5)
ONE_STEP = {
    "learning_rate": 0.001,
    "max_steps": 1,
    "warmup_fraction": 0.0,
    "select_best": False,
    "eval_every_steps": 9,
    "save_every_steps": 1,
    "per_device_batch_size": 2,
}


def ragged(folder: Path, start: Artefact | None = None, *, launch=None, model=None, **section) -> Recipe:
    """A recipe whose rows have from 1 to 40 letters, all of them in each step; it goes on from a published model."""
    stage = {**ONE_STEP, **section}
    recipe = tiny(folder, {"sft": stage, "reward": {**stage, "num_reference_samples": 4}})
    rows = [("The cat?", "a" * length, "b" * (41 - length)) for length in LENGTHS]
    write_rows(folder / "sft.train.jsonl", [{"prompt": p, "completion": c} for p, c, _ in rows])
    write_rows(
        folder / "preference.train.jsonl", [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in rows]
    )
    plain = recipe.model_dump(mode="json") | {"launch": launch or {}}
    if start is not None:
        (folder / "workspace" / "runs" / folder.name).mkdir(parents=True, exist_ok=True)
        registry = folder / "workspace" / "registry"
        if not registry.is_symlink():
            registry.symlink_to(start.path.parent.parent)
        plain |= {"model": {"path": f"registry:{start.reference}"} | (model or {}), "name": folder.name}
    return Recipe.model_validate(plain)


def run_spread(recipe: Recipe, stage: Stage) -> tuple[Artefact | None, list[dict]]:
    """Run a stage's ranks as the pipeline starts them: what they published, and what each wrote down of itself."""
    return run_spread_stages(recipe, [stage])[stage]


def run_spread_stages(
    recipe: Recipe, stages: Sequence[Stage], made: dict[Stage, Artefact] | None = None
) -> dict[Stage, tuple[Artefact | None, list[dict]]]:
    """Run several stages, one after the other, in the same ranks, each from the artefacts in `made`."""
    contexts = {stage: context_of(recipe, stage, made) for stage in stages}
    for context in contexts.values():
        (context.run_folder / RECIPE_FILE).write_text(recipe.model_dump_json(), encoding="utf-8")
        (context.folder / INPUTS_FILE).write_text(context.inputs.model_dump_json(), encoding="utf-8")
    script = Path(__file__).with_name("stage_rank.py")
    done = subprocess.run(
        [*launcher_command(recipe.launch), str(script), str(run_folder(recipe)), *stages],
        env=environment(**strategy_environment(recipe.launch)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return {
        stage: (
            context.registry.find(recipe.artefact_name(stage), context.inputs.digest),
            [json.loads(path.read_text()) for path in sorted(context.folder.glob("rank-*.json"))],
        )
        for stage, context in contexts.items()
    }
