"""`rlhf registry`: what the workspace's runs have published."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rlhf.errors import UsageError

registry_app = typer.Typer(no_args_is_help=True, help="The shared model registry.")
console = Console(highlight=False)

WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="The workspace that holds the registry.")]


@registry_app.command("list")
def registry_list(
    name: Annotated[str | None, typer.Argument(help="Only this artefact's versions.")] = None,
    workspace: WorkspaceOption = Path("workspace"),
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List artefacts, their stage, time and main metric."""
    from rich.table import Table

    listing = open_registry(workspace).list(name)
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
            for alias, version in open_registry(workspace).aliases(manifest.name).items()
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
    artefact = open_registry(workspace).resolve(reference)
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
    node = open_registry(workspace).lineage(reference)
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
    registry = open_registry(workspace)
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
    registry = open_registry(workspace)
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
    from rlhf.pipeline.pins import needed_references

    removed = open_registry(workspace).gc(keep=keep, dry_run=dry_run, protect=needed_references(workspace))
    for entry in removed:
        what = entry.reference or str(entry.path)
        console.print(
            Text(f"{'would remove' if dry_run else 'removed'} {what} ({entry.num_bytes / 1e6:.1f} MB)"),
            soft_wrap=True,
        )
    if not removed:
        console.print("nothing to remove")


def open_registry(workspace: Path) -> Any:
    """The workspace's registry.

    Raises:
        UsageError: there is none.
    """
    from rlhf.registry import Registry

    root = workspace / "registry"
    if not root.is_dir():
        raise UsageError(f"{root}: there is no registry", "Name the workspace of your runs with --workspace.")
    return Registry(root)
