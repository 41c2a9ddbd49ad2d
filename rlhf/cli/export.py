"""`rlhf export`: a published model as a plain folder, an adapter merged on request. Loads torch only to merge."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rlhf.cli.registry import WorkspaceOption, open_registry
from rlhf.errors import UsageError

console = Console(highlight=False)


class DType(StrEnum):
    """A precision to save weights in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export(
    reference: Annotated[str, typer.Argument(help="name, name@version, name@alias or name@latest.")],
    folder: Annotated[Path, typer.Argument(help="Where to; must not exist yet.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge an adapter into its base: whole weights, without PEFT.")
    ] = False,
    dtype: Annotated[
        DType | None,
        typer.Option(help="With --merge: what to save weights in (float32); merging is in float32."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="With --merge: run Python code that the base brings.")
    ] = False,
    workspace: WorkspaceOption = Path("workspace"),
) -> None:
    """Write a published model into a plain folder, every byte proved: as it is, or an adapter merged into its base."""
    if dtype is not None and not merge:
        raise UsageError("--dtype is of merged weights: an artefact is copied as it is", "Give --merge too.")
    registry = open_registry(workspace)
    target = folder.absolute()
    if target.resolve().is_relative_to(registry.root.resolve()):
        raise UsageError(
            f"{folder} lies in the registry, which holds published artefacts alone", "Name another."
        )
    artefact = registry.open_verified(reference)
    if artefact.manifest.base is not None and merge:
        _export_merged(artefact, target, "float32" if dtype is None else dtype.value, trust_remote_code)
        return
    if dtype is not None:
        raise UsageError(
            f"{artefact.reference} holds whole weights: there is nothing to merge", "Leave --dtype out."
        )
    from rlhf.registry.exporting import copy_artefact

    copy_artefact(artefact, target)
    console.print(Text(f"copied {artefact.reference} to {folder}"), soft_wrap=True)


def _export_merged(artefact: Any, target: Path, dtype: str, trust_remote_code: bool) -> None:
    from rlhf.stages.merging import export_merged

    done = export_merged(artefact, target, dtype=dtype, trust_remote_code=trust_remote_code)
    what = "scores" if artefact.manifest.kind == "reward_model" else "logits"
    place = f"merged {artefact.reference} into {artefact.manifest.base.path}: {target}"
    compared = (
        f"{what} up to {done.scale:.3g}; merged in float32 they differ from the adapter's by {done.difference:.2g}, "
        f"as saved in {dtype} by {done.rounded:.2g}"
    )
    console.print(Text(f"{place}\n{compared}"), soft_wrap=True)
