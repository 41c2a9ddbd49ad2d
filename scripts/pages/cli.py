"""The command line's reference, from the typer application."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

import typer

from pages.tables import table_row
from rlhf.cli import app

CLI_INTRO = """# Command line

The exit codes are those of the [README](../README.md#commands). `rlhf COMMAND --help` says the same as this page.
"""


def cli_page() -> str:
    """The reference of all commands."""
    parts = [CLI_INTRO]
    parts += [_command_part(words, command) for words, command in _commands("rlhf", app)]
    return "\n".join(parts)


def _commands(words: str, group: typer.Typer) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every command and its function, depth first."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield f"{words} {command.name or command.callback.__name__.replace('_', '-')}", command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from _commands(f"{words} {inner.name}", inner.typer_instance)


def _command_part(words: str, function: Callable[..., Any]) -> str:
    parameters = list(_parameters(function))
    arguments = [each for each in parameters if each.is_argument]
    options = [each for each in parameters if not each.is_argument]
    shown = [each.name if each.is_required else f"[{each.name}]" for each in arguments]
    usage = " ".join([words, *(["[OPTIONS]"] if options else []), *shown])
    lines = [f"## {words}", "", " ".join((function.__doc__ or "").split()), "", f"```\n{usage}\n```", ""]
    if parameters:
        lines += ["| | default | meaning |", "|---|---|---|"]
        lines += [table_row((each.label(), each.default, each.meaning)) for each in [*arguments, *options]]
        lines.append("")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Parameter:
    """One argument or option, read from the function's signature: typer's own classes change with its releases."""

    name: str
    is_argument: bool
    is_required: bool
    takes: str
    default: str
    meaning: str

    def label(self) -> str:
        return " ".join(part for part in (f"`{self.name}`", self.takes) if part)


def _parameters(function: Callable[..., Any]) -> Iterator[_Parameter]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = get_args(hints[name])[:2]
        is_argument = isinstance(info, typer.models.ArgumentInfo)
        # In Annotated, the first name stands where the default would.
        given = (info.default, *(info.param_decls or ()))
        named = next((each for each in given if isinstance(each, str)), f"--{name.replace('_', '-')}")
        many = "..." if is_argument and list in (get_origin(each) for each in (kind, *get_args(kind))) else ""
        choices = _choices(kind)
        default = parameter.default
        is_flag = kind is bool
        yield _Parameter(
            name=(info.metavar or name.upper() + many) if is_argument else named,
            is_argument=is_argument,
            is_required=default is inspect.Parameter.empty,
            takes=choices or ("" if is_argument or is_flag else info.metavar or _type_name(kind)),
            default="" if is_flag or default in (None, inspect.Parameter.empty) else f"`{default}`",
            meaning=info.help or "",
        )


def _types(kind: Any) -> list[Any]:
    """The types in `X`, `X | None`, `list[X] | None`."""
    inner = [each for each in get_args(kind) if each is not type(None)]
    return [leaf for each in inner for leaf in _types(each)] if inner else [kind]


def _choices(kind: Any) -> str:
    return ", ".join(f"`{each.value}`" for leaf in _types(kind) if issubclass(leaf, Enum) for each in leaf)


def _type_name(kind: Any) -> str:
    return {"str": "TEXT", "int": "NUMBER", "float": "NUMBER"}.get(_types(kind)[0].__name__, "PATH")
