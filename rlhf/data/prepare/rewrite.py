"""The steps that look at one row alone: its texts cleaned, filler words removed, rows with findings left out."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from rlhf.data.content import ContentChecks
from rlhf.data.place import Located
from rlhf.data.prepare.clean import cleaner
from rlhf.data.prepare.fillers import filler_remover, read_words
from rlhf.data.texts import TEXT_FIELDS
from rlhf.recipe.check_codes import check_codes
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import RecordKind
from rlhf.recipe.preparation import Preparation
from rlhf_schemas import RECORDS, Message, Record

Edit = Callable[[str], str]


class Rewriter:
    """Counts what it does in `counts`: rows changed by each step, and rows left out.

    Args:
        preparation: the source's steps.
        kind: which record the rows are.
        checks: what the checks look for; those to drop by are made on the cleaned texts.

    Raises:
        DataError: the list of filler words, or of sensitive ones, cannot be read.
    """

    def __init__(self, preparation: Preparation, kind: RecordKind, checks: ChecksSection) -> None:
        self.counts: Counter[str] = Counter()
        self._kind: RecordKind = kind
        self._edits: list[tuple[str, Edit]] = []
        if preparation.clean:
            self._edits.append(("cleaned", cleaner(preparation.clean)))
        if preparation.filler_words is not None:
            self._edits.append(("filler_words", filler_remover(read_words(preparation.filler_words))))
        self._dropped = [code for code in check_codes("content") if code in preparation.drop]
        self._checks = ContentChecks(only(checks, self._dropped), kind) if self._dropped else None

    @property
    def is_idle(self) -> bool:
        """Whether every row passes as it is."""
        return not self._edits and self._checks is None

    def counted(self) -> dict[str, int]:
        """The counts of every step that the recipe has, zeros included, in the steps' order."""
        names = [name for name, _ in self._edits]
        if names:
            names += ["emptied"] if self._kind != "preference" else ["emptied", "equalled"]
        return {name: self.counts[name] for name in (*names, *(f"drop.{code}" for code in self._dropped))}

    def apply(self, item: Located[Record]) -> Located[Record] | None:
        """The row after all steps, or None where it is left out."""
        for name, edit in self._edits:
            fields = self._edited(item.record, edit)
            if not fields:
                continue
            try:
                item = Located(_with(item.record, fields, self._kind), item.place)
            except ValidationError as error:
                self.counts[_reason(error)] += 1
                return None
            self.counts[name] += 1
        if self._checks is not None:
            found = self._checks.find(item.record, item.place)
            if found:
                self.counts[f"drop.{found[0].code}"] += 1
                return None
        return item

    def _edited(self, record: Record, edit: Edit) -> dict[str, Any]:
        """The fields that the edit changes."""
        fields: dict[str, Any] = {}
        for name in TEXT_FIELDS[self._kind]:
            value: str | list[Message] | None = getattr(record, name)
            if value is None:
                continue
            new = edit(value) if isinstance(value, str) else [_message(one, edit) for one in value]
            if new != value:
                fields[name] = new
        return fields


def only(checks: ChecksSection, codes: list[str]) -> ChecksSection:
    """The same settings with these codes as warnings and all others of content and across rows off."""
    others = dict.fromkeys([*check_codes("content"), *check_codes("across")], "off")
    return checks.model_copy(update={"severity": others | dict.fromkeys(codes, "warning")})


def _message(message: Message, edit: Edit) -> Message | dict[str, str]:
    content = edit(message.content)
    return message if content == message.content else {"role": message.role, "content": content}


def _with(record: Record, fields: dict[str, Any], kind: RecordKind) -> Record:
    """The record with other texts, against all its rules: a text may have become blank, a pair equal."""
    given = {name: getattr(record, name) for name in record.model_fields_set}
    return RECORDS[kind].model_validate(given | fields)


def _reason(error: ValidationError) -> str:
    """A text of which nothing is left, else a pair that differed in the removed part alone."""
    return "emptied" if any(one["type"] == "blank" for one in error.errors()) else "equalled"
