"""A YAML file and `--set` overrides -> a frozen `Recipe`, or one error that lists every fault with path and line."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from rlhf.errors import RecipeError, UsageError
from rlhf.recipe.recipe import Recipe, cross_faults

Path_ = tuple[str | int, ...]


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
    raw, lines = _read(path)
    for override in overrides:
        _override(raw, lines, override)
    faults: list[tuple[Path_, str]] = []
    parts = _validate_sections(raw, faults)
    faults.extend(cross_faults(parts))
    if faults:
        shown = "\n".join(f"  {_place(path, lines, where)}: {message}" for where, message in _unique(faults))
        raise RecipeError(f"{path} cannot be run, {len(_unique(faults))} fault(s):\n{shown}")
    return Recipe(**parts)


def _read(path: Path) -> tuple[dict[str, Any], dict[Path_, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"recipe {path}: {error.strerror or error}", "Give the path of a recipe file."
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"recipe {path}: not UTF-8 at byte {error.start}", "Save the file as UTF-8."
        ) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        problem = getattr(error, "problem", None) or str(error)
        raise RecipeError(f"{where}: not YAML: {problem}", "Mend the syntax there.") from error
    if not isinstance(value, dict) or node is None:
        raise RecipeError(f"{path}: a recipe is a mapping of sections (name, model, data, sft, …)")
    lines: dict[Path_, str] = {}
    duplicates: list[str] = []
    _positions(node, (), path, lines, duplicates)
    if duplicates:
        raise RecipeError(f"{path}: keys given twice:\n" + "\n".join(f"  {entry}" for entry in duplicates))
    return cast(dict[str, Any], value), lines


def _positions(
    node: yaml.Node, where: Path_, path: Path, lines: dict[Path_, str], duplicates: list[str]
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            place = (*where, str(key.value))
            if place in lines:
                duplicates.append(
                    f"{path}:{key.start_mark.line + 1}: {_dotted(place)} (first at {lines[place]})"
                )
            lines[place] = f"{path}:{key.start_mark.line + 1}"
            _positions(child, place, path, lines, duplicates)
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            lines[(*where, index)] = f"{path}:{child.start_mark.line + 1}"
            _positions(child, (*where, index), path, lines, duplicates)


def _override(raw: dict[str, Any], lines: dict[Path_, str], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {override}: not of the form key=value", "Write --set section.key=value.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: the value is not YAML", "Quote it.") from error
    keys = key.strip().split(".")
    target = raw
    for depth, part in enumerate(keys[:-1]):
        inner = target.get(part)
        if isinstance(inner, str) and (keys[depth] in ("model", "train", "eval")):
            inner = {"path": inner}
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise UsageError(f"--set {override}: {'.'.join(keys[: depth + 1])} is not a section")
        target[part] = inner
        target = cast(dict[str, Any], inner)
    target[keys[-1]] = value
    place: Path_ = tuple(keys)
    for known in [known for known in lines if known[: len(place)] == place]:
        del lines[known]
    lines[place] = f"--set {override}"


def _validate_sections(raw: Mapping[str, Any], faults: list[tuple[Path_, str]]) -> dict[str, Any]:
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
    from typing import Annotated

    field = Recipe.model_fields[key]
    metadata = tuple(field.metadata)
    return Annotated[(field.annotation, *metadata)] if metadata else field.annotation


def _faults_of(key: str, error: ValidationError) -> list[tuple[Path_, str]]:
    faults: list[tuple[Path_, str]] = []
    for entry in error.errors(include_url=False):
        where: Path_ = (key, *(part for part in entry["loc"] if not _is_union_tag(part)))
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


def _known_keys(where: Path_) -> list[str]:
    model: Any = Recipe
    for part in where:
        if not isinstance(part, str) or part not in getattr(model, "model_fields", {}):
            return []
        annotation = model.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next((option for option in options if hasattr(option, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = (
        f"did you mean {close[0]}?"
        if close
        else (f"known here: {', '.join(known)}" if known else "remove it")
    )
    return f"unknown key; {hint}"


def _place(path: Path, lines: Mapping[Path_, str], where: Path_) -> str:
    """The line of the deepest part of `where` that the file has, then the dotted path."""
    for end in range(len(where), 0, -1):
        if where[:end] in lines:
            return f"{lines[where[:end]]}: {_dotted(where)}"
    return f"{path}: {_dotted(where)}" if where else str(path)


def _dotted(where: Path_) -> str:
    return ".".join(str(part) for part in where)


def _unique(faults: list[tuple[Path_, str]]) -> list[tuple[Path_, str]]:
    return list(dict.fromkeys(faults))
