"""Rows of any known shape to the fields of records."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rlhf.data.columns import ColumnMap
from rlhf.data.fault import Fault, make_fault
from rlhf.data.place import Place, Row
from rlhf.data.shapes import LAYOUTS, Answer, Fields, Layout, MisshapenError, Outcome, make_pairs
from rlhf.data.shapes.detect import detect_shape, source_fault, unknown_shape
from rlhf.data.shapes.layout import as_object
from rlhf.data.shapes.reading import RowReader
from rlhf.recipe.data import DataSource, FileFormat, RecordKind, Shape

__all__ = ["Candidate", "convert_rows", "detect_shape", "is_grouped", "source_fault", "unknown_shape"]


class Candidate(NamedTuple):
    """What a row may become: fields that the record's rules have yet to see."""

    fields: dict[str, object] | None
    """Of the record; None where there is nothing to validate."""
    row: Row
    """Where they come from; of a pair from several rows the chosen answer's."""
    faults: list[Fault]
    """Of shape and mapping; any error among them refuses the candidate."""


class _Judged(NamedTuple):
    """A row with one of its answers."""

    prompt: object
    answer: Answer
    beside: Fields
    row: Row


_Packed = tuple[object, object, float, Fields, dict[str, object], str, int | None, int | None]
"""The same in plain types alone, which pickle writes and reads several times faster."""


def _pack(one: _Judged) -> _Packed:
    (answer, score), (values, place) = one.answer, one.row
    return one.prompt, answer, score, one.beside, values, place.path, place.line, place.row


def _unpack(packed: _Packed) -> _Judged:
    prompt, answer, score, beside, values, path, line, row = packed
    return _Judged(prompt, Answer(answer, score), beside, Row(values, Place(path, line, row)))


def is_grouped(shape: Shape, kind: RecordKind) -> bool:
    """Whether several rows make one record, so that all rows of a source must go through one `convert_rows`, in order."""
    return kind == "preference" and shape != "records" and LAYOUTS[shape].grouped


def convert_rows(
    rows: Iterable[Row | Fault], source: DataSource, kind: RecordKind, fmt: FileFormat | None, shape: Shape
) -> Iterator[Candidate | Fault]:
    """Each row's candidates in order; faults pass through.

    Where `is_grouped`, pairs come after the last row, in the order in which their prompts first appeared; rows that
    cannot be read come at once. A source for which `source_fault` is not None must not get here.

    Args:
        rows: of the source, or of a part of it.
        source: its mapping and pair rules.
        kind: which record is wanted.
        fmt: the file's format.
        shape: as `detect_shape` gives it.

    Raises:
        DataError: if the temporary folder's disk is full while rows are grouped.
    """
    if shape == "records":
        return _records(rows, ColumnMap(source, kind, fmt))
    converter = _Converter(source, kind, fmt, shape, LAYOUTS[shape])
    return converter.grouped(rows) if is_grouped(shape, kind) else converter.each(rows)


def _records(rows: Iterable[Row | Fault], mapping: ColumnMap) -> Iterator[Candidate | Fault]:
    for row in rows:
        if isinstance(row, Fault):
            yield row
            continue
        fields, faults = mapping.fields(row)
        if faults and any(fault.code == "null_prompt" for fault in faults):
            # without its prompt, the pair's other rules would say what is not so
            yield Candidate(None, row, faults)
        else:
            yield Candidate(fields, row, faults)


class _Converter:
    def __init__(
        self, source: DataSource, kind: RecordKind, fmt: FileFormat | None, shape: Shape, layout: Layout
    ) -> None:
        self._reader = RowReader(source, kind, fmt, shape, layout)
        self._layout, self._source = layout, source
        self._kind: RecordKind = kind

    def each(self, rows: Iterable[Row | Fault]) -> Iterator[Candidate | Fault]:
        """Rows that are records of their own."""
        for row in rows:
            if isinstance(row, Fault):
                yield row
                continue
            try:
                yield from self._candidates(row)
            except (MisshapenError, RecursionError) as error:
                yield self._refused(error, row)

    def grouped(self, rows: Iterable[Row | Fault]) -> Iterator[Candidate | Fault]:
        """Rows with one answer each, paired within their prompt."""
        # sqlite3 costs 10 ms to import, which most sources do not need
        from rlhf.data.shapes.groups import PromptGroups

        groups = PromptGroups[_Packed]()
        for row in rows:
            if isinstance(row, Fault):
                yield row
                continue
            try:
                bare, judged = self._judged(row)
                if bare.faults:
                    yield bare
                    continue
                for one in judged:
                    groups.add(one.prompt, _pack(one))
            except (MisshapenError, RecursionError) as error:
                yield self._refused(error, row)
        for group in groups.groups():
            yield from self._pairs([_unpack(one) for one in group])

    def _refused(self, error: MisshapenError | RecursionError, row: Row) -> Candidate:
        if isinstance(error, MisshapenError):
            return Candidate(None, row, [self._reader.fault_of(error, row)])
        return Candidate(None, row, [make_fault("bad_json", row.place, "is nested too deeply")])

    def _candidates(self, row: Row) -> Iterator[Candidate]:
        if self._layout.convert is not None:
            fields, beside, faults = self._reader.read(row)
            yield Candidate(self._layout.convert(fields, self._kind) | beside, row, faults)
            return
        bare, judged = self._judged(row)
        if bare.faults or self._kind == "prompt":
            yield bare
        elif self._kind == "preference":
            yield from self._pairs(judged)
        else:
            best = max(judged, key=lambda one: one.answer.score)
            record: Fields = {"prompt": best.prompt, "completion": best.answer.answer}
            yield Candidate(record | _scored(best.beside, score=best.answer.score), row, [])

    def _judged(self, row: Row) -> tuple[Candidate, list[_Judged]]:
        """The row's prompt alone, with nothing to validate if columns are at fault; and each of its answers."""
        assert self._layout.answers is not None, "a layout has one of the two"
        fields, beside, faults = self._reader.read(row)
        prompt, answers = self._layout.answers(fields, self._kind)
        bare = Candidate(None if faults else {"prompt": prompt} | beside, row, faults)
        return bare, [_Judged(prompt, answer, beside, row) for answer in answers]

    def _pairs(self, judged: Sequence[_Judged]) -> Iterator[Candidate]:
        """The pairs of one prompt's answers; what makes none is told at the first answer's row."""
        scores = [one.answer.score for one in judged]
        for found in make_pairs(scores, self._source.pairs, self._source.min_margin):
            if isinstance(found, Outcome):
                row = judged[0].row
                yield Candidate(None, row, [make_fault(found.code, row.place, found.message)])
                continue
            chosen, rejected = judged[found.chosen], judged[found.rejected]
            record: Fields = {
                "prompt": chosen.prompt,
                "chosen": chosen.answer.answer,
                "rejected": rejected.answer.answer,
                "margin": found.margin,
            }
            scored = _scored(
                chosen.beside, score_chosen=chosen.answer.score, score_rejected=rejected.answer.score
            )
            yield Candidate(record | scored, chosen.row, [])


def _scored(beside: Fields, **scores: float) -> Fields:
    return beside | {"metadata": {**(as_object(beside.get("metadata")) or {}), **scores}}
