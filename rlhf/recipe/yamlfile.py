"""A recipe's YAML, read safely: plain values, and the line of each key; keys given twice are refused."""

from pathlib import Path
from typing import Any, cast

import yaml

from rlhf.errors import RecipeError, UsageError
from rlhf.recipe.secrets import redact

Place = tuple[str | int, ...]
"""Keys and indices down to a value."""
MAX_NODES = 100_000
"""Aliases can make a small file endless: what unfolds to more values than this is no recipe."""


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Place, str]]:
    """The file's mapping, and for each place in it `file:line`.

    Raises:
        UsageError: the file cannot be read.
        RecipeError: not UTF-8, not YAML, not a mapping with text keys, or keys given twice.
    """
    text = _read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = _Lines(path)
        if node is not None:
            lines.walk(node, ())
        value = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise RecipeError(f"{where}: not YAML: {problem}", "Mend the syntax there.") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not YAML: {error}", "Mend the syntax, or quote the value.") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections (name, model, data, sft, …)")
    if lines.faults:
        raise RecipeError(f"{path}: bad keys:\n" + "\n".join(f"  {fault}" for fault in lines.faults))
    return cast(dict[str, Any], value), lines.of


def parse_value(override: str, text: str) -> Any:
    """The value of `--set key=value`, read as YAML.

    Raises:
        UsageError: it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"--set {redact(override)}: the value is not YAML", "Quote it.") from error


def dotted(place: Place) -> str:
    """A place as people write it: `data.sft.train`."""
    return ".".join(str(part) for part in place)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"recipe {path}: {error.strerror or error}", "Give the path of a recipe file."
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"recipe {path}: not UTF-8 at byte {error.start}", "Save the file as UTF-8."
        ) from error


class _Lines:
    """Walks the composed nodes, which still know their lines and their repeated keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.of: dict[Place, str] = {}
        self.faults: list[str] = []
        self._num_nodes = 0

    def walk(self, node: yaml.Node, where: Place) -> None:
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            raise RecipeError(f"{self.path}: its aliases unfold to more than {MAX_NODES} values")
        if isinstance(node, yaml.MappingNode):
            for key, child in cast(list[tuple[yaml.Node, yaml.Node]], node.value):
                self._key(key, where)
                self.walk(child, (*where, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for index, child in enumerate(cast(list[yaml.Node], node.value)):
                self.of[(*where, index)] = f"{self.path}:{child.start_mark.line + 1}"
                self.walk(child, (*where, index))

    def _key(self, key: yaml.Node, where: Place) -> None:
        line = f"{self.path}:{key.start_mark.line + 1}"
        place = (*where, str(key.value))
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            self.faults.append(f"{line}: {dotted(place)}: a key is text; quote it if it is meant so")
        elif place in self.of and key.value != "<<":
            self.faults.append(f"{line}: {dotted(place)} is given twice (first at {self.of[place]})")
        self.of.setdefault(place, line)
