"""What rows are grouped by: the prompt, the file, or an entry of metadata."""

import json
from pathlib import PurePath
from typing import Any, cast

from rlhf.data.across import prompt_key, row_key
from rlhf.data.fault import make_fault
from rlhf.data.place import Located, Place
from rlhf.errors import DataError
from rlhf.recipe.data import RecordKind
from rlhf.recipe.preparation import Key
from rlhf_schemas import Record

_ENTRY = "metadata."


def group_key(item: Located[Record], kind: RecordKind, by: Key) -> int:
    """The row's group as 64 bits; a row without a prompt is a group of its own.

    Raises:
        DataError: the row's metadata has no such entry.
    """
    from xxhash import xxh3_64_intdigest

    if by == "prompt":
        key = prompt_key(item.record, kind)
        return row_key(item.record, kind) if key is None else key
    return xxh3_64_intdigest(group_name(item, by).encode(errors="surrogateescape"))


def has_group(item: Located[Record], by: Key) -> bool:
    """Whether the row's metadata has the entry; every row has a prompt, or itself, and a file."""
    return not by.startswith(_ENTRY) or by.removeprefix(_ENTRY) in _metadata(item)


def group_name(item: Located[Record], by: Key) -> str:
    """The row's group as recipes name it: the file's name without its folders, since where data lie should not count; or
    the entry of metadata (what is not text as JSON writes it).

    Raises:
        DataError: the row's metadata has no such entry.
    """
    if by == "source":
        return PurePath(item.place.path).name
    metadata, entry = _metadata(item), by.removeprefix(_ENTRY)
    if entry not in metadata:
        raise _missing(by, item.place)
    value = metadata[entry]
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _metadata(item: Located[Record]) -> dict[str, object]:
    return cast(Any, item.record).metadata  # every kind of record has it; their base has not


def _missing(by: Key, place: Place) -> DataError:
    fault = make_fault("missing_field", place, "is missing, and rows are grouped by it", field=by)
    return DataError(str(fault))
