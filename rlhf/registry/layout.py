"""Where things lie under the registry's root, and which version a reference means."""

import re
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rlhf.errors import RegistryError
from rlhf.registry.artefact import Artefact, load
from rlhf.registry.references import ALIAS_OR_NAME, LATEST, VERSION, check_name, parse_reference

ALIASES = "aliases.json"
_ALIASES = TypeAdapter(dict[str, int])
_MAX_LISTED = 20


def artefact_names(root: Path) -> list[str]:
    """The names that have a version, sorted."""
    if not root.is_dir():
        return []
    folders = (entry.name for entry in root.iterdir() if re.fullmatch(ALIAS_OR_NAME, entry.name))
    return sorted(name for name in folders if artefact_versions(root, name))


def artefact_versions(root: Path, name: str) -> list[int]:
    """The versions of a name, ascending; a damaged one counts, since its number is taken."""
    folder = root / check_name(name)
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if re.fullmatch(VERSION, entry.name))


def artefact_folder(root: Path, name: str, version: int) -> Path:
    """Where a version lies."""
    return root / name / str(version)


def read_aliases(root: Path, name: str) -> dict[str, int]:
    """Alias -> version; empty where none was set.

    Raises:
        RegistryError: the file that holds them is damaged.
    """
    path = root / check_name(name) / ALIASES
    try:
        return _ALIASES.validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValidationError) as error:
        raise RegistryError(
            f"{path} does not hold aliases", "Delete it and set the aliases again."
        ) from error


def locate(root: Path, reference: str) -> tuple[str, int]:
    """The name and version that a reference means now.

    Raises:
        RegistryError: it is malformed or means nothing; lists the names, or the versions and aliases, that exist.
    """
    name, selector = parse_reference(reference)
    versions = artefact_versions(root, name)
    if not versions:
        raise RegistryError(
            f"{reference}: no artefact is named {name!r} in {root}; {_listed('names', artefact_names(root))}",
            "Run the stage that publishes it, or correct the name.",
        )
    if selector == LATEST:
        return name, versions[-1]
    aliases = read_aliases(root, name)
    version = selector if isinstance(selector, int) else aliases.get(selector)
    if version not in versions:
        known = _listed("versions", [str(each) for each in versions])
        words = _listed("aliases", [f"{alias} -> {target}" for alias, target in sorted(aliases.items())])
        raise RegistryError(
            f"{reference}: {name!r} has no such version or alias in {root}; {known}; {words}",
            f"Use one of these, or `{name}@{LATEST}`.",
        )
    return name, version


def load_reference(root: Path, reference: str) -> Artefact:
    """Locate and load.

    Raises:
        RegistryError: it does not resolve, or its manifest is damaged.
    """
    name, version = locate(root, reference)
    return load(artefact_folder(root, name, version), name, version)


def _listed(what: str, items: list[str]) -> str:
    if not items:
        return f"{what}: none"
    more = f"{len(items) - _MAX_LISTED} more, " if len(items) > _MAX_LISTED else ""
    return f"{what}: {more}{', '.join(items[-_MAX_LISTED:])}"
