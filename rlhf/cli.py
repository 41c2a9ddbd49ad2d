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

from rlhf.errors import RLHFError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Classical RLHF: supervised fine-tuning, reward model, PPO; chained, validated, resumable.",
)
registry_app = typer.Typer(no_args_is_help=True, help="The shared model registry.")
app.add_typer(registry_app, name="registry")

console = Console(highlight=False)


class StageName(StrEnum):
    """A stage."""

    sft = "sft"
    reward = "reward"
    ppo = "ppo"


class KindName(StrEnum):
    """A kind of record."""

    sft = "sft"
    preference = "preference"
    prompt = "prompt"
    rollout = "rollout"


class SchemaName(StrEnum):
    """What has a JSON Schema."""

    sft = "sft"
    preference = "preference"
    prompt = "prompt"
    rollout = "rollout"
    recipe = "recipe"


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe, such as ppo.seed=1."),
]
WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="The workspace that holds the registry.")]


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
    given = tuple(overrides or ())
    options = RunOptions(
        recipe_path=str(recipe),
        overrides=given,
        stage=stage.value if stage else None,
        start=start.value if start else None,
        fresh=fresh,
        dry_run=dry_run,
    )
    run_recipe(load_recipe(recipe, given), options, console)


@app.command()
def validate(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH…|RECIPE", help="Data files or hub data sets; or one recipe.")
    ],
    kind: Annotated[KindName | None, typer.Option("--as", help="Which records the files hold.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the JSON report to a file besides.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Check that text rows can be wrapped as chat turns.")
    ] = False,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    overrides: SetOption = None,
) -> None:
    """Name every invalid row with file, line, field, value and remedy; or check all data that a recipe needs."""
    from rlhf.data import check, render_json, render_text
    from rlhf.recipe import DataSource

    if kind is None:
        reports = _validate_recipe(paths, overrides)
    else:
        reports = [check(DataSource(path=path, split=split), kind.value, chat=chat) for path in paths]
    content = json.dumps(render_json(reports), ensure_ascii=False, indent=1)
    if report is not None:
        report.write_text(content + "\n", encoding="utf-8")
    console.print(Text(content if as_json else render_text(reports)), soft_wrap=True)
    if any(one.num_faults for one in reports):
        raise typer.Exit(1)


def _validate_recipe(paths: list[str], overrides: list[str] | None) -> list[Any]:
    from rlhf.data import check
    from rlhf.recipe import SPLITS_OF, RecordKind, load_recipe

    if len(paths) != 1 or Path(paths[0]).suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"{' '.join(paths)}: which records do these files hold?",
            "Add --as sft, preference, prompt or rollout; or give one recipe (.yaml).",
        )
    recipe = load_recipe(paths[0], overrides or ())
    kinds: dict[str, RecordKind] = {"sft": "sft", "preference": "preference", "prompts": "prompt"}
    reports: list[Any] = []
    for stage in recipe.stages():
        splits = recipe.splits(stage)
        for source in (splits.train, splits.eval):
            if source is not None:
                reports.append(check(source, kinds[SPLITS_OF[stage]], chat=recipe.data.chat))
    return reports


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


@registry_app.command("list")
def registry_list(
    name: Annotated[str | None, typer.Argument(help="Only this artefact's versions.")] = None,
    workspace: WorkspaceOption = Path("workspace"),
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List artefacts, their stage, time and main metric."""
    from rich.table import Table

    listing = _registry(workspace).list(name)
    if as_json:
        print(json.dumps([json.loads(a.manifest.model_dump_json()) for a in listing.artefacts], indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("artefact", "stage", "made", "aliases", "size"):
        table.add_column(heading, overflow="fold")
    for artefact in listing.artefacts:
        manifest = artefact.manifest
        aliases = [
            alias
            for alias, version in _registry(workspace).aliases(manifest.name).items()
            if version == manifest.version
        ]
        size = sum(entry.size for entry in manifest.files.values()) / 1e6
        table.add_row(
            artefact.reference,
            manifest.stage,
            f"{manifest.created:%Y-%m-%d %H:%M}",
            ", ".join(aliases),
            f"{size:.1f} MB",
        )
    console.print(table)
    for problem in listing.problems:
        console.print(Text(f"problem: {problem}", style="red"), soft_wrap=True)
    if listing.problems:
        raise typer.Exit(1)


@registry_app.command("show")
def registry_show(
    reference: Annotated[str, typer.Argument(help="name, name@version, name@alias or name@latest.")],
    workspace: WorkspaceOption = Path("workspace"),
) -> None:
    """Print an artefact's manifest and where it lies."""
    artefact = _registry(workspace).resolve(reference)
    print(
        json.dumps(
            {"path": str(artefact.path), "digest": artefact.digest}
            | json.loads(artefact.manifest.model_dump_json()),
            indent=1,
        )
    )


@registry_app.command("lineage")
def registry_lineage(
    reference: Annotated[str, typer.Argument(help="name, name@version, name@alias or name@latest.")],
    workspace: WorkspaceOption = Path("workspace"),
) -> None:
    """Print what an artefact was made from, back to the start, with the digests of data."""
    node = _registry(workspace).lineage(reference)
    _print_lineage(node, "")
    if node.problems():
        raise typer.Exit(1)


def _print_lineage(node: Any, indent: str) -> None:
    role = f" ({node.role})" if node.role else ""
    problem = f"  problem: {node.problem}" if node.problem else ""
    console.print(Text(f"{indent}{node.reference}{role}{problem}"), soft_wrap=True)
    if node.artefact is not None:
        for split, digest in node.artefact.manifest.data.items():
            console.print(Text(f"{indent}    data {split} {digest[:12]}"), soft_wrap=True)
    for parent in node.parents:
        _print_lineage(parent, indent + "  ")


@registry_app.command("verify")
def registry_verify(
    references: Annotated[
        list[str] | None, typer.Argument(help="Artefacts; all of them where left out.")
    ] = None,
    workspace: WorkspaceOption = Path("workspace"),
) -> None:
    """Prove every byte of artefacts, and the digests of what they were made from; exits with 1 on a difference."""
    registry = _registry(workspace)
    listing = registry.list()
    wanted = references or [artefact.reference for artefact in listing.artefacts]
    num_problems = 0 if references else len(listing.problems)
    for problem in () if references else listing.problems:
        console.print(Text(f"DAMAGED {problem}"), soft_wrap=True)
    for reference in wanted:
        problems = registry.verify(reference)
        if not problems:
            problems = registry.lineage(reference).problems()
        console.print(Text(f"{'DAMAGED' if problems else 'ok     '} {reference}"), soft_wrap=True)
        for problem in problems:
            console.print(Text(f"  {problem}"), soft_wrap=True)
        num_problems += len(problems)
    if num_problems:
        raise typer.Exit(1)


@registry_app.command("alias")
def registry_alias(
    reference: Annotated[str, typer.Argument(help="name@version (or name, for the latest).")],
    alias: Annotated[str, typer.Argument(help="The alias, such as production.")],
    delete: Annotated[bool, typer.Option("--delete", help="Forget the alias instead.")] = False,
    workspace: WorkspaceOption = Path("workspace"),
) -> None:
    """Give a version a name of its own, which survives gc; an existing alias moves."""
    registry = _registry(workspace)
    if delete:
        registry.remove_alias(reference.partition("@")[0], alias)
        return
    manifest = registry.resolve(reference).manifest
    registry.set_alias(manifest.name, alias, manifest.version)
    console.print(Text(f"{manifest.name}@{alias} is now version {manifest.version}"))


@registry_app.command("gc")
def registry_gc(
    keep: Annotated[int, typer.Option(min=1, help="Newest versions of each name to keep.")] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; delete nothing.")] = False,
    workspace: WorkspaceOption = Path("workspace"),
) -> None:
    """Delete old versions that no alias, kept artefact or run needs."""
    removed = _registry(workspace).gc(keep=keep, dry_run=dry_run)
    for entry in removed:
        what = entry.reference or str(entry.path)
        console.print(
            Text(f"{'would remove' if dry_run else 'removed'} {what} ({entry.num_bytes / 1e6:.1f} MB)"),
            soft_wrap=True,
        )
    if not removed:
        console.print("nothing to remove")


def _registry(workspace: Path) -> Any:
    from rlhf.registry import Registry

    root = workspace / "registry"
    if not root.is_dir():
        raise UsageError(f"{root}: there is no registry", "Name the workspace of your runs with --workspace.")
    return Registry(root)


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
    Console(stderr=True, highlight=False).print(Text(f"error: {message}"), soft_wrap=True)
    sys.exit(code)
