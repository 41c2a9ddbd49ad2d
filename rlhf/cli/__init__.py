"""The `rlhf` command: each subcommand is one call into the code below; the only place that prints errors and exits."""

import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rlhf.cli.choices import SetOption
from rlhf.cli.export import export
from rlhf.cli.registry import registry_app
from rlhf.cli.rollouts import rollouts
from rlhf.cli.validate import validate
from rlhf.errors import RLHFError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Classical RLHF: supervised fine-tuning, reward model, PPO; chained, validated, resumable.",
)
app.add_typer(registry_app, name="registry")

console = Console(highlight=False)


class StageName(StrEnum):
    """A stage."""

    sft = "sft"
    reward = "reward"
    ppo = "ppo"


class SchemaName(StrEnum):
    """What has a JSON Schema."""

    sft = "sft"
    preference = "preference"
    prompt = "prompt"
    rollout = "rollout"
    recipe = "recipe"


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe file.")],
    stage: Annotated[StageName | None, typer.Option(help="Run this stage alone.")] = None,
    start: Annotated[
        StageName | None, typer.Option("--from", help="Run this stage and those after it.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Build the chosen stages anew, whatever is there.")
    ] = False,
    adopt_changes: Annotated[
        bool,
        typer.Option("--adopt-changes", help="Let unfinished work go on with the recipe's changed settings."),
    ] = False,
    overrides: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and why; do nothing.")
    ] = False,
) -> None:
    """Run a recipe's stages in order: finished ones with unchanged inputs are reused, an interrupted one resumes."""
    from rlhf.pipeline import RunOptions, run_recipe
    from rlhf.recipe import load_recipe

    if stage is not None and start is not None:
        raise UsageError("--stage and --from exclude each other", "Give one of them.")
    if fresh and adopt_changes:
        raise UsageError("--fresh and --adopt-changes exclude each other", "Start anew, or go on.")
    given = tuple(overrides or ())
    options = RunOptions(
        recipe_path=str(recipe),
        overrides=given,
        stage=stage.value if stage else None,
        start=start.value if start else None,
        fresh=fresh,
        adopt_changes=adopt_changes,
        dry_run=dry_run,
    )
    run_recipe(load_recipe(recipe, given), options, console)


@app.command()
def schema(kind: Annotated[SchemaName, typer.Argument(help="Which record, or the recipe.")]) -> None:
    """Print the JSON Schema of a record or of the recipe."""
    if kind is SchemaName.recipe:
        from rlhf.recipe import Recipe

        model: Any = Recipe
    else:
        from rlhf_schemas import RECORDS

        model = RECORDS[kind.value]
    print(json.dumps(model.model_json_schema(), indent=2, ensure_ascii=False))


@app.command()
def env() -> None:
    """Print versions and devices: what a bug report needs."""
    from rlhf.environment import describe_environment

    for name, value in describe_environment().items():
        console.print(Text(f"{name:<14} {value}"), soft_wrap=True)


app.command()(validate)
app.command()(rollouts)
app.command()(export)


def main() -> None:
    """Run the command line; exit codes are in the README."""
    from rlhf.pipeline.stopped import Stopped

    try:
        app()
    except RLHFError as error:
        _fail(str(error), error.exit_code)
    except Stopped as stopped:
        _fail(str(stopped), 130 if stopped.signum == signal.SIGINT else 75)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str, code: int) -> None:
    from rlhf.recipe import redact

    Console(stderr=True, highlight=False).print(Text(f"error: {redact(message)}"), soft_wrap=True)
    sys.exit(code)
