"""One artefact's folder: take stock of its files, seal it with a manifest, read it back, find what changed.

`manifest.json` lists the hash of every other file; `manifest.sha256` (readable by `sha256sum -c`) holds the manifest's
own, which is the artefact's digest. A child records that digest of its parents, so a forged pair is found as well.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf.durable import write_atomic
from rlhf.errors import RegistryError
from rlhf.registry.manifest import FORMAT_VERSION, FileEntry, Manifest

MANIFEST = "manifest.json"
SEAL = "manifest.sha256"
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
"""Formats that run code when loaded."""


@dataclass(frozen=True)
class Artefact:
    """A published artefact; `path` loads with plain `from_pretrained`."""

    path: Path
    manifest: Manifest
    digest: str
    """Sha256 of manifest.json, which holds the hash of everything else."""

    @property
    def reference(self) -> str:
        """Exact, such as `name@3`."""
        return f"{self.manifest.name}@{self.manifest.version}"


def take_stock(folder: Path) -> dict[str, FileEntry]:
    """Hash the files of a folder that is about to be published.

    Raises:
        RegistryError: links, special files, pickled weights, files with a manifest's name, or nothing at all.
    """
    files, faults = _walk(folder)
    for name in files:
        if Path(name).suffix.lower() in PICKLES:
            faults.append(f"{name}: pickled weights run code when loaded")
        if name in {MANIFEST, SEAL}:
            faults.append(f"{name}: the registry writes this file itself")
    if not files:
        faults.append("there is no file in it")
    if faults:
        raise RegistryError(
            f"cannot publish {folder}:\n" + "\n".join(f"  {fault}" for fault in faults),
            "Stage plain files alone, weights as safetensors.",
        )
    return {name: FileEntry(sha256=_sha256(path), size=path.stat().st_size) for name, path in files.items()}


def seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest and its own hash into a folder, flushed to the disk."""
    content = (json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()
    write_atomic(folder / MANIFEST, content)
    write_atomic(folder / SEAL, _seal_line(hashlib.sha256(content).hexdigest()))


def load(folder: Path, name: str, version: int) -> Artefact:
    """Read the artefact `name@version` from its folder; checks the manifest's own hash, not the files'.

    Raises:
        RegistryError: a manifest that is missing, changed, of another format, or of another artefact.
    """
    place = f"{name}@{version} ({folder / MANIFEST})"
    try:
        content = (folder / MANIFEST).read_bytes()
        sealed = (folder / SEAL).read_bytes()
    except OSError as error:
        raise _damaged(f"{place}: cannot read {error.filename}: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if sealed != _seal_line(digest):
        raise _damaged(f"{place}: {MANIFEST} changed since it was published: {SEAL} holds another hash")
    try:
        document: Any = json.loads(content)
        found = document.get("format_version") if isinstance(document, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] (foreign JSON)
        if found != FORMAT_VERSION:
            raise RegistryError(
                f"{place} has manifest format {found}; this version reads {FORMAT_VERSION}",
                "Use the version of rlhf-stages that published it.",
            )
        manifest = Manifest.model_validate(document)
    except ValueError as error:
        lines = _faults(error) if isinstance(error, ValidationError) else [str(error)]
        raise _damaged(f"{place}: {MANIFEST} is not a manifest: {'; '.join(lines)}") from error
    if (manifest.name, manifest.version) != (name, version):
        raise _damaged(f"{place}: {MANIFEST} is that of {manifest.name}@{manifest.version}")
    return Artefact(folder, manifest, digest)


def find_changes(artefact: Artefact) -> list[str]:
    """Compare every file with the manifest; returns one line for each that changed, is missing, or is not listed."""
    present, problems = _walk(artefact.path)
    listed = artefact.manifest.files
    for name in sorted(set(present) - set(listed) - {MANIFEST, SEAL}):
        problems.append(f"{name}: not part of the published artefact")
    for name, entry in sorted(listed.items()):
        if name not in present:
            problems.append(f"{name}: missing")
            continue
        try:
            size = present[name].stat().st_size
            if size != entry.size:
                problems.append(f"{name}: changed: {size} bytes, published with {entry.size}")
            elif (found := _sha256(present[name])) != entry.sha256:
                problems.append(f"{name}: changed: sha256 {found}, published with {entry.sha256}")
        except OSError as error:
            problems.append(f"{name}: cannot be read: {error.strerror}")
    return problems


def _walk(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The regular files under a folder by relative path, and a line for each link, special file or closed folder."""
    files: dict[str, Path] = {}
    odd: list[str] = []

    def unreadable(error: OSError) -> None:
        odd.append(f"{error.filename}: cannot be read: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        for entry in sorted(folders + names):
            path = Path(parent, entry)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                odd.append(f"{relative}: a symbolic link, its target can change")
            elif path.is_file():
                files[relative] = path
            elif not path.is_dir():
                odd.append(f"{relative}: neither a file nor a folder")
    return files, odd


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _seal_line(digest: str) -> bytes:
    return f"{digest}  {MANIFEST}\n".encode()


def _faults(error: ValidationError) -> list[str]:
    return [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]


def _damaged(message: str) -> RegistryError:
    return RegistryError(message, "Restore the folder from a copy, or delete it and run the stage again.")
