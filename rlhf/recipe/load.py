"""A YAML file and `--set` overrides -> a frozen `Recipe`, or one error that lists every fault with path and line."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from rlhf.errors import RecipeError, UsageError
from rlhf.recipe.combinations import find_combinations
from rlhf.recipe.recipe import Recipe
from rlhf.recipe.secrets import has_secret, redact
from rlhf.recipe.yamlfile import Place, dotted, parse_value, read_yaml


def load_recipe(path: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    """Read, override and validate a recipe.

    Args:
        path: the YAML file.
        overrides: `a.b=c` each; the value is read as YAML.

    Raises:
        UsageError: the file cannot be read, or an override has no `=`.
        RecipeError: every fault, one a line: `file:line: path: what is wrong`.
    """
    path = Path(path)
    raw, lines = read_yaml(path)
    for override in overrides:
        _override(raw, lines, override)
    faults: list[tuple[Place, str]] = list(_secrets(raw, ()))
    parts = _validate_sections(raw, faults)
    faults.extend(find_combinations(_tree(raw, parts)))
    if faults:
        unique = list(dict.fromkeys(faults))
        shown = "\n".join(f"  {_place(path, lines, where)}: {message}" for where, message in unique)
        raise RecipeError(f"{path} cannot be run, {len(unique)} fault(s):\n{redact(shown)}")
    return Recipe(**parts)


def _override(raw: dict[str, Any], lines: dict[Place, str], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(
            f"--set {redact(override)}: not of the form key=value", "Write --set section.key=value."
        )
    value = parse_value(override, text)
    keys = key.strip().split(".")
    target = raw
    for depth, part in enumerate(keys[:-1]):
        inner = target.get(part)
        if isinstance(inner, str) and (keys[depth] in ("model", "train", "eval")):
            inner = {"path": inner}
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise UsageError(f"--set {redact(override)}: {'.'.join(keys[: depth + 1])} is not a section")
        target[part] = inner
        target = cast(dict[str, Any], inner)
    target[keys[-1]] = value
    place: Place = tuple(keys)
    for known in [known for known in lines if known[: len(place)] == place]:
        del lines[known]
    lines[place] = f"--set {override}"


def _validate_sections(raw: Mapping[str, Any], faults: list[tuple[Place, str]]) -> dict[str, Any]:
    """Validate each top-level key on its own, so that one broken section does not hide another's faults."""
    fields = Recipe.model_fields
    parts: dict[str, Any] = {}
    for key in raw:
        if key not in fields:
            faults.append(((key,), _unknown(key, list(fields))))
    for key, field in fields.items():
        if key not in raw:
            if field.is_required():
                faults.append(((key,), "missing, and it has no default"))
            else:
                parts[key] = field.get_default(call_default_factory=True)
            continue
        adapter: TypeAdapter[Any] = TypeAdapter(_annotation(key))
        try:
            parts[key] = adapter.validate_python(raw[key])
        except ValidationError as error:
            faults.extend(_faults_of(key, error))
    return parts


def _annotation(key: str) -> Any:
    field = Recipe.model_fields[key]
    metadata = tuple(field.metadata)
    return Annotated[(field.annotation, *metadata)] if metadata else field.annotation


def _tree(raw: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe as plain values: valid sections as validated, broken ones as written over their defaults."""
    tree: dict[str, Any] = {}
    for key, field in Recipe.model_fields.items():
        if key in parts:
            part = parts[key]
            tree[key] = part.model_dump() if isinstance(part, BaseModel) else part
        else:
            tree[key] = _as_written(_section_of(field.annotation), raw.get(key))
    return tree


def _as_written(section: type[BaseModel] | None, value: Any) -> Any:
    if section is None or value is None:
        return value
    if isinstance(value, str) and "path" in section.model_fields:
        value = {"path": value}
    given = cast(Mapping[str, Any], value if isinstance(value, Mapping) else {})
    filled: dict[str, Any] = {}
    for key, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if key in given:
            filled[key] = _as_written(inner, given[key])
        else:
            filled[key] = default.model_dump() if isinstance(default, BaseModel) else default
    return filled


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section in `Section` or `Section | None`."""
    options = (annotation, *getattr(annotation, "__args__", ()))
    return next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _secrets(value: Any, where: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str) and has_secret(value):
        yield (
            where,
            "holds a secret, and recipes are kept with their runs; give it in the environment (HF_TOKEN, …)",
        )
    elif isinstance(value, Mapping):
        for key, inner in cast(Mapping[Any, Any], value).items():
            yield from _secrets(inner, (*where, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(cast(list[Any], value)):
            yield from _secrets(inner, (*where, index))


def _faults_of(key: str, error: ValidationError) -> list[tuple[Place, str]]:
    faults: list[tuple[Place, str]] = []
    for entry in error.errors(include_url=False):
        where: Place = (key, *(part for part in entry["loc"] if not _is_union_tag(part)))
        if entry["type"] == "extra_forbidden":
            faults.append((where, _unknown(str(where[-1]), _known_keys(where[:-1]))))
        elif entry["type"] == "missing":
            faults.append((where, "missing, and it has no default"))
        else:
            message = entry["msg"].removeprefix("Value error, ")
            given = entry["input"]
            shown = "" if isinstance(given, (dict, list)) else f" (got {given!r})"
            faults.append((where, message + shown))
    return faults


def _is_union_tag(part: str | int) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "float", "bool"))


def _known_keys(where: Place) -> list[str]:
    section: type[BaseModel] | None = Recipe
    for part in where:
        if section is None or not isinstance(part, str) or part not in section.model_fields:
            return []
        section = _section_of(section.model_fields[part].annotation)
    return list(section.model_fields) if section is not None else []


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = (
        f"did you mean {close[0]}?"
        if close
        else (f"known here: {', '.join(known)}" if known else "remove it")
    )
    return f"unknown key; {hint}"


def _place(path: Path, lines: Mapping[Place, str], where: Place) -> str:
    """The line of the deepest part of `where` that the file has, then the dotted path."""
    for end in range(len(where), 0, -1):
        if where[:end] in lines:
            return f"{lines[where[:end]]}: {dotted(where)}"
    return f"{path}: {dotted(where)}" if where else str(path)
