"""A published artefact as a plain folder outside the registry, byte for byte."""

import shutil
from dataclasses import replace
from pathlib import Path

from rlhf.durable import new_folder, require_disk
from rlhf.errors import RegistryError
from rlhf.registry.artefact import MANIFEST, SEAL, Artefact, find_changes


def copy_artefact(artefact: Artefact, folder: Path) -> None:
    """Copy every file, the manifest and its seal included, and prove the copy before it is there.

    Args:
        artefact: proved, see `Registry.open_verified`.
        folder: appears whole or not at all.

    Raises:
        UsageError: the folder exists or cannot be written, or the disk has no room.
        RegistryError: a file changed while it was copied.
    """
    names = [*artefact.manifest.files, MANIFEST, SEAL]
    require_disk(folder, sum(entry.size for entry in artefact.manifest.files.values()), artefact.reference)
    with new_folder(folder) as beside:
        for name in names:
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artefact.path / name, beside / name)
        problems = find_changes(replace(artefact, path=beside))
        if problems:
            raise RegistryError(
                f"{artefact.reference} changed while it was copied:\n"
                + "\n".join(f"  {problem}" for problem in problems),
                f"Run rlhf registry verify {artefact.reference}, then export it again.",
            )
