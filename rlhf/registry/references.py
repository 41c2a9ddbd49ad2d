"""Names and references: `name`, `name@latest`, `name@3`, `name@alias`."""

import re

from rlhf.errors import RegistryError

ALIAS_OR_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""A name is a folder's name too: it starts with a letter or digit, so that neither `..` nor a hidden folder is one."""
VERSION = "[1-9][0-9]*"
LATEST = "latest"
REGISTRY_PREFIX = "registry:"
"""Tells a reference from a hub id or a folder where a recipe takes all three."""

_RULE = "letters, digits, `.`, `_` and `-`, starting with a letter or digit, at most 100 characters"


def check_name(name: str) -> str:
    """Return `name` if an artefact may be called so.

    Raises:
        RegistryError: with the rule it breaks.
    """
    if not re.fullmatch(ALIAS_OR_NAME, name):
        raise RegistryError(f"{name!r} cannot name an artefact", f"Use {_RULE}.")
    return name


def check_alias(alias: str) -> str:
    """Return `alias` if it can be told from a version and from `latest`.

    Raises:
        RegistryError: with the rule it breaks.
    """
    if not re.fullmatch(ALIAS_OR_NAME, alias):
        raise RegistryError(f"{alias!r} cannot be an alias", f"Use {_RULE}.")
    if alias.lower() == LATEST or re.fullmatch("[0-9_]+", alias):
        raise RegistryError(
            f"{alias!r} cannot be an alias: it reads as a version",
            "Use a word, such as `best` or `production`.",
        )
    return alias


def parse_reference(reference: str) -> tuple[str, int | str]:
    """Split a reference into its name and what selects the version: a number, `latest` or an alias.

    Raises:
        RegistryError: where it has another form.
    """
    name, separator, selector = reference.partition("@")
    check_name(name)
    if not separator:
        return name, LATEST
    if re.fullmatch(VERSION, selector):
        return name, int(selector)
    if selector != LATEST and (
        not re.fullmatch(ALIAS_OR_NAME, selector) or re.fullmatch("[0-9_]+", selector)
    ):
        raise RegistryError(
            f"{reference!r} is not a reference",
            "Write `name`, `name@latest`, `name@3` or `name@alias`.",
        )
    return name, selector
