"""A split of the recipe as the stages read it: its rows as a stream, and what tells its content from any other."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rlhf.data import digest_source, find_format
from rlhf.data.prepare import PreparedSplit
from rlhf.recipe import DataSource, Recipe, Stage
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.recipe import ReadSplit
from rlhf.stages.context import StageContext
from rlhf.stages.split_settings import content_digest

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Split:
    """What is read, and how.

    Attributes:
        read: where it stands in the recipe, its kind and source.
        chat: whether text rows become turns.
        checks: which findings turn a row away.
        quarantine: where faulty rows go, with `on_error: quarantine`.
    """

    read: ReadSplit
    chat: bool
    checks: ChecksSection
    quarantine: Path | None = None

    def rows(self) -> PreparedSplit:
        """The prepared rows, to be iterated; a DataError then where faulty ones stop the run."""
        return PreparedSplit(self.read, chat=self.chat, checks=self.checks, quarantine=self.quarantine)

    def quarantined(self) -> list[Path]:
        """The files of faulty rows that there are: one for the source, one for each that is mixed in."""
        path = self.quarantine
        return [] if path is None else sorted(path.parent.glob(f"{path.stem}*{path.suffix}"))

    def identity(self) -> dict[str, Any]:
        """All that decides its rows, as JSON has it; the content of every file counts, by its SHA-256."""
        return {
            "read": {name: _plain(value) for name, value in self.read._asdict().items()},
            "chat": self.chat,
            "checks": _plain(self.checks),
            "content": [*_contents(self.read.source), _file_digest(self.checks.sensitive_words)],
        }


def prepared(rows: PreparedSplit) -> str:
    """What an iteration did to the rows, followed by a semicolon; nothing where it did nothing."""
    return "" if set(rows.counts) <= {"rows", "given"} else f"{rows.describe()}; "


def recipe_split(recipe: Recipe, stage: Stage, key: str, *, quarantine: Path | None = None) -> Split | None:
    """The split at `key`, such as `sft.eval`, if the stage reads it."""
    for read in recipe.reads(stage):
        if read.key == key:
            return Split(read, recipe.data.chat, recipe.data.checks, quarantine)
    return None


def stage_split(context: StageContext, key: str) -> Split | None:
    """The split at `key`, if the stage reads it; its faulty rows go to the stage's folder."""
    file = context.folder / f"quarantine.{key}.jsonl"
    return recipe_split(context.recipe, context.stage, key, quarantine=file)


def token_folder(recipe: Recipe) -> Path:
    """Where the workspace keeps tokens; it may be deleted at any time."""
    return Path(recipe.workspace).absolute() / "cache" / "tokens"


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _contents(source: DataSource) -> list[str | None]:
    """Digests of the source's bytes, of its lists of words, and of what is mixed in; a hub commit stands for itself."""
    is_commit = find_format(source) == "hub" and _COMMIT.fullmatch(source.revision or "")
    own = [source.revision if is_commit else digest_source(source), _file_digest(source.prepare.filler_words)]
    return own + [digest for mixed in source.mix_in for digest in _contents(mixed)]


def _file_digest(path: str | None) -> str | None:
    """None where no file is named, or it cannot be read, which reading the rows reports."""
    if path is None or not Path(path).is_file():
        return None
    return content_digest(path)
