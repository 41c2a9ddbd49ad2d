"""Which artefacts garbage collection must keep, and what it would delete."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rlhf.registry.artefact import load
from rlhf.registry.layout import artefact_folder, artefact_names, artefact_versions, locate, read_aliases
from rlhf.registry.references import parse_reference


@dataclass(frozen=True)
class Removed:
    """One thing that gc deleted, or would delete."""

    path: Path
    reference: str | None
    """None for the leavings of a process that died while it published."""
    num_bytes: int


def old_artefacts(root: Path, keep: int, protect: Collection[str]) -> list[Removed]:
    """The versions that nothing keeps, children before their parents.

    Raises:
        RegistryError: a kept artefact's manifest is damaged, so that its lineage is unknown; or a protected
            reference does not resolve.
    """
    kept = _kept(root, keep, protect)
    gone = [
        removal(artefact_folder(root, name, version), f"{name}@{version}")
        for name in artefact_names(root)
        for version in artefact_versions(root, name)
        if (name, version) not in kept
    ]
    # A child is published after its parents: newest first, so that an interrupted gc leaves no child without them.
    return sorted(gone, key=lambda removed: removed.path.stat().st_mtime_ns, reverse=True)


def removal(path: Path, reference: str | None) -> Removed:
    """Describe a folder that is to go."""
    sizes = (entry.lstat().st_size for entry in path.rglob("*") if not entry.is_dir())
    return Removed(path, reference, sum(sizes))


def _kept(root: Path, keep: int, protect: Collection[str]) -> set[tuple[str, int]]:
    existing = {name: artefact_versions(root, name) for name in artefact_names(root)}
    waiting = {locate(root, reference) for reference in protect}
    for name, versions in existing.items():
        waiting |= {(name, version) for version in versions[-keep:]}
        waiting |= {(name, version) for version in read_aliases(root, name).values() if version in versions}
    kept: set[tuple[str, int]] = set()
    while waiting:
        name, version = waiting.pop()
        kept.add((name, version))
        for parent in load(artefact_folder(root, name, version), name, version).manifest.parents:
            parent_name, parent_version = parse_reference(parent.reference)
            # A parent that is gone already cannot be kept; `lineage` reports it.
            if parent_version in existing.get(parent_name, []):
                waiting |= {(parent_name, int(parent_version))} - kept
    return kept
