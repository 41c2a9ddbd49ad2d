"""The registry: `<root>/<name>/<version>/`, immutable once there. Stages meet here and nowhere else.

Versions count up from 1 and are never reused. Any number of processes may publish, read and collect at once.
"""

import errno
import json
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rlhf.durable import explain_write_errors, rename_folder, sync, sync_tree, write_atomic
from rlhf.errors import RegistryError
from rlhf.registry.artefact import Artefact, find_changes, load, seal, take_stock
from rlhf.registry.collect import Removed, old_artefacts, removal
from rlhf.registry.layout import (
    ALIASES,
    artefact_folder,
    artefact_names,
    artefact_versions,
    load_reference,
    locate,
    read_aliases,
)
from rlhf.registry.lineage import LineageNode, trace
from rlhf.registry.manifest import FORMAT_VERSION, FileEntry, Manifest, ManifestDraft
from rlhf.registry.references import check_alias, check_name
from rlhf.registry.staging import FILES, abandoned_slots, close_slot, discard, exclusive, open_slot, owns_slot


@dataclass(frozen=True)
class Listing:
    """What the registry holds, by name and then version; an unreadable artefact is a line in `problems`."""

    artefacts: tuple[Artefact, ...]
    problems: tuple[str, ...]


class Registry:
    """The artefacts under one folder. The folder is made by the first write; reading an absent one finds nothing."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._area = self.root / ".staging"

    def staging(self, name: str) -> Path:
        """Return a new empty folder to write an artefact into; only this process may publish it.

        Slots of processes that died are swept on the way.

        Raises:
            UsageError: the registry cannot be written.
        """
        check_name(name)
        with self._writing() as locked:
            for slot in abandoned_slots(self._area) if locked else []:
                discard(slot, self._area)
            return open_slot(self._area, name) / FILES

    def publish(self, staged: Path, draft: ManifestDraft) -> Artefact:
        """Make a staged folder the next version of `draft.name`: hashed, flushed, then renamed into place at once.

        Raises:
            RegistryError: links, pickled weights or nothing in the folder, or a folder that `staging` did not give.
            UsageError: the registry cannot be written.
        """
        slot = staged.parent
        if not owns_slot(slot, draft.name):
            raise RegistryError(
                f"{staged} is not a staging folder of {draft.name} that this process opened",
                "Write the artefact into Registry.staging(name), and publish each folder once.",
            )
        with explain_write_errors(self.root):
            files = take_stock(staged)
            sync_tree(staged)
        with self._writing():
            (self.root / draft.name).mkdir(exist_ok=True)
            sync(self.root)
            version = self._place(staged, draft, files)
            close_slot(slot)
        return self.resolve(f"{draft.name}@{version}")

    def resolve(self, reference: str) -> Artefact:
        """Return the artefact that a reference (`name`, `name@latest`, `name@3`, `name@alias`) names now.

        Reads the manifest alone; `open_verified` reads every file.

        Raises:
            RegistryError: it does not resolve (lists what exists), or its manifest is damaged.
        """
        return load_reference(self.root, reference)

    def verify(self, reference: str) -> list[str]:
        """Return one line for each file that changed, is missing or was added; empty where all is as published.

        Raises:
            RegistryError: the reference does not resolve.
        """
        name, version = locate(self.root, reference)
        try:
            artefact = self._load(name, version)
        except RegistryError as error:
            return [error.message]
        return find_changes(artefact)

    def open_verified(self, reference: str) -> Artefact:
        """Resolve a reference and prove every byte; what a stage calls before it loads a model.

        Raises:
            RegistryError: it does not resolve, or a file is not as published (named).
        """
        artefact = self.resolve(reference)
        problems = find_changes(artefact)
        if problems:
            raise RegistryError(
                f"{artefact.reference} in {artefact.path} is not as published:\n"
                + "\n".join(f"  {problem}" for problem in problems),
                "Restore the folder from a copy, or delete it and run the stage again.",
            )
        return artefact

    def find(self, name: str, inputs_digest: str) -> Artefact | None:
        """Return the newest version of `name` that was made from these inputs, or None.

        Raises:
            RegistryError: a newer version's manifest is damaged, so that nobody can tell.
        """
        check_name(name)
        for version in reversed(artefact_versions(self.root, name)):
            artefact = self._load(name, version)
            if artefact.manifest.inputs_digest == inputs_digest:
                return artefact
        return None

    def lineage(self, reference: str) -> LineageNode:
        """Return the tree of what an artefact was made from; a missing or changed parent is a problem in its node.

        Raises:
            RegistryError: the reference itself does not resolve.
        """
        return trace(self.resolve(reference), self.resolve)

    def aliases(self, name: str) -> dict[str, int]:
        """Return alias -> version.

        Raises:
            RegistryError: the file that holds them is damaged.
        """
        return read_aliases(self.root, name)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias at a version, anew where it exists.

        Raises:
            RegistryError: the alias reads as a version, or the version does not exist.
            UsageError: the registry cannot be written.
        """
        check_alias(alias)
        locate(self.root, f"{name}@{version}")
        with self._writing():
            # Again, now that no gc can run: it may have waited for the lock behind one.
            locate(self.root, f"{name}@{version}")
            self._write_aliases(name, {**read_aliases(self.root, name), alias: version})

    def remove_alias(self, name: str, alias: str) -> None:
        """Forget an alias; the version stays until gc finds it unnamed.

        Raises:
            RegistryError: there is no such alias (lists those that exist).
        """
        with self._writing():
            aliases = read_aliases(self.root, name)
            if check_alias(alias) not in aliases:
                raise RegistryError(
                    f"{name}@{alias}: no such alias; there are: {', '.join(sorted(aliases)) or 'none'}",
                    "See `rlhf registry list`.",
                )
            self._write_aliases(name, {key: value for key, value in aliases.items() if key != alias})

    def gc(self, *, keep: int, dry_run: bool = False, protect: Collection[str] = ()) -> list[Removed]:
        """Delete old versions and the leavings of dead processes; return what went, or would go.

        Kept: the newest `keep` versions of each name, what an alias or `protect` (references, such as those that a
        live run pinned) names, and everything in the lineage of what is kept.

        Raises:
            RegistryError: a kept artefact's manifest is damaged, so that its lineage is unknown; nothing is deleted.
        """
        if keep < 1:
            raise RegistryError(f"keep={keep} would delete every version", "Keep 1 or more.")
        if not self.root.is_dir():
            return []
        with self._writing() as locked:
            gone = old_artefacts(self.root, keep, protect)
            gone += [removal(slot, None) for slot in abandoned_slots(self._area) if locked]
            if not dry_run:
                for removed in gone:
                    discard(removed.path, self._area)
        return gone

    def list(self, name: str | None = None) -> Listing:
        """Return every artefact, or those of one name."""
        artefacts: list[Artefact] = []
        problems: list[str] = []
        for each in artefact_names(self.root) if name is None else [check_name(name)]:
            for version in artefact_versions(self.root, each):
                try:
                    artefacts.append(self._load(each, version))
                except RegistryError as error:
                    problems.append(error.message)
        return Listing(tuple(artefacts), tuple(problems))

    def _load(self, name: str, version: int) -> Artefact:
        return load(artefact_folder(self.root, name, version), name, version)

    @contextmanager
    def _writing(self) -> Generator[bool]:
        """One writer at a time; yields False where the file system cannot lock. Hashing and model loading stay outside, so that nobody waits long."""
        with explain_write_errors(self.root):
            self._area.mkdir(parents=True, exist_ok=True)
            with exclusive(self.root / ".lock") as locked:
                yield locked

    def _place(self, staged: Path, draft: ManifestDraft, files: dict[str, FileEntry]) -> int:
        """Seal the folder and rename it to the first free version.

        The lock makes the number free; where the file system has none, rename refuses a taken one and the next is tried.
        """
        taken = artefact_versions(self.root, draft.name)
        version = taken[-1] + 1 if taken else 1
        while True:
            seal(
                staged,
                Manifest(
                    **dict(draft),
                    format_version=FORMAT_VERSION,
                    version=version,
                    created=datetime.now(UTC),
                    files=files,
                ),
            )
            try:
                rename_folder(staged, artefact_folder(self.root, draft.name, version))
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                version += 1
            else:
                return version

    def _write_aliases(self, name: str, aliases: dict[str, int]) -> None:
        content = json.dumps(aliases, indent=2, sort_keys=True) + "\n"
        write_atomic(self.root / name / ALIASES, content.encode())
