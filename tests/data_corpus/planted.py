"""What a planted fault is: rows changed in a clean file, and what must then be found, where."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from data_corpus.clean_rows import CLEAN, Values
from data_corpus.writers import TEXT_FORMATS
from rlhf.recipe.check_codes import check_codes

AT = 17
"""Index of the row that is changed where only one is."""
GONE = object()
"""A field that the faulty row lacks."""

JSONS = ("jsonl", "json")
CSVS = ("csv", "tsv")
BINARY = ("parquet", "arrow")
ROWS = (*JSONS, *CSVS, *BINARY)
"""Every format that has fields."""
ALL = ("text", *ROWS)


@dataclass(frozen=True)
class Planted:
    """One fault, as values of rows: every format writes it in its own way."""

    code: str
    base: str
    """Name of the clean rows."""
    changes: Mapping[int, Values]
    """Row's index -> fields that differ from the clean row."""
    field: str | None
    """Field that the finding names."""
    formats: tuple[str, ...] = ROWS
    """Formats in which it can be; each text one compressed too."""
    at: tuple[int, ...] | None = None
    """Rows at which it is found; those that are changed where left out."""
    whole: str | None = None
    """`column`: told once, of the header; `source`: told once, without a row."""
    also: tuple[tuple[str, str | None, int], ...] = ()
    """What the fault implies besides: (code, field, row's index)."""
    source: Mapping[str, object] = field(default_factory=dict[str, object])
    """Options of the data source, for the clean file as well."""
    checks: Mapping[str, object] = field(default_factory=dict[str, object])
    """Options of the checks, for the clean file as well."""
    chat: bool = False
    """Whether rows shall become chats; for the faulty file alone."""
    like: int | None = None
    """Index of a clean row that the changed one starts from; the one that it replaces where left out."""

    def rows(self) -> list[Values]:
        """The faulty file's rows."""
        clean = CLEAN[self.base].rows
        rows = list(clean)
        for index, change in self.changes.items():
            start = clean[index if self.like is None else self.like]
            merged = {**start, **change}
            rows[index] = {name: value for name, value in merged.items() if value is not GONE}
        return rows

    @property
    def indices(self) -> tuple[int, ...]:
        """Rows at which it must be found."""
        return tuple(self.changes) if self.at is None else self.at


def everywhere(base: str, change: Values) -> dict[int, Values]:
    """The same change in every row, as a column of a table has it."""
    return {index: change for index in range(len(CLEAN[base].rows))}


FORMATS_OF: Mapping[str, tuple[str, ...]] = {
    "bom": TEXT_FORMATS,
    "not_utf8": TEXT_FORMATS,
    "bad_json": ROWS,  # in tables, a cell of metadata or messages
    "truncated": ROWS,
    "duplicate_key": ROWS,
    "not_finite": ROWS,
    "not_object": JSONS,
    "not_array": ("json",),
    "bad_csv": CSVS,
    "column_count": CSVS,
    "unknown_shape": ROWS,
    "unknown_field": ROWS,
    "missing_field": ROWS,
    "metadata_clash": ROWS,
    "unknown_role": ROWS,
    "tool_calls": ROWS,
    "bad_transcript": ROWS,
    "single_answer": ROWS,
    "tie": ROWS,
    "null_prompt": (*JSONS, *BINARY),  # an empty cell is a blank prompt
    "wrong_type": ROWS,
    "out_of_range": ROWS,
    "not_a_choice": ROWS,
    "too_short": ROWS,
    "blank": ROWS,  # a blank line of a text file holds no row
    "not_unicode": (*JSONS, *CSVS),  # as JSON's escape alone; a table file's text is UTF-8
    "not_json": BINARY,  # only they have types beyond JSON's
    "shape": ROWS,
    "mixed": (*JSONS, *CSVS),  # a column of a table file has one type
    "roles": ROWS,
    "equal_pair": ROWS,
    "no_common_prompt": ROWS,
    "length_mismatch": ROWS,
    "cannot_chat": ALL,
    **dict.fromkeys(check_codes("content"), ALL),
    "equal_after_normalisation": ROWS,  # a line of a text file is no pair
    "duplicate": ALL,
    "near_duplicate": ALL,
    "contradiction": ROWS,
    "preference_cycle": ROWS,
    "length_bias": ROWS,
    "label_imbalance": ROWS,
    "mixed_languages": ALL,
}
"""Code -> the formats in which it can occur; compression makes no difference. What a whole source has is elsewhere."""
