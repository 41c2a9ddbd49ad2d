"""Which files a source means, in which order, and which format they have."""

import glob
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from rlhf.data.compression import is_compressed
from rlhf.data.fault import Fault, make_fault
from rlhf.data.place import Place
from rlhf.recipe.data import DataSource, FileFormat

_SUFFIXES: Mapping[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".text": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
PACKABLE: frozenset[FileFormat | None] = frozenset({"jsonl", "json", "csv", "tsv", "text"})
"""Formats that gzip and zstd are unpacked for."""
NOT_DATA = re.compile(
    r"(readme|license|notice|changelog|checksums)(\.md|\.txt|\.rst)?|citation\.cff|(sha256|md5)sums|_success"
    r"|(dataset_infos?|dataset_dict|state)\.json|_(common_)?metadata",
    re.IGNORECASE,
)
"""Names that lie beside data; passed over in a folder or pattern."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Files(NamedTuple):
    """What a source's path stands for."""

    format: FileFormat | None
    """None where no suffix names one, or several name several."""
    paths: tuple[Path, ...]
    """In the order in which they are read; none for a hub data set."""
    fault: Fault | None = None
    """What is wrong with the source as a whole."""


def look_up(source: DataSource) -> Files:
    """Find the source's files by its path: a file, a folder, a pattern, a folder saved by `datasets`, or a hub name."""
    path = Path(source.path)
    if source.format == "hub":
        return _look_up_hub(source)
    try:
        if not path.exists():
            return _look_up_absent(source)
        found = _look_up_folder(source, path) if path.is_dir() else _one_format(source, [path])
    except OSError as error:
        return _broken(source, "unreadable", f"cannot be read: {error.strerror or error}")
    return found if found.fault is not None else _without_hub_settings(source, found)


def _look_up_absent(source: DataSource) -> Files:
    fmt = source.format or _format_of(Path(source.path))
    if glob.has_magic(source.path):
        names = [Path(name) for name in glob.glob(source.path, recursive=True)]
        paths = [path for path in names if not NOT_DATA.fullmatch(path.name) and not path.is_dir()]
        if not paths:
            return _broken(source, "file_missing", "is a pattern that no file fits", format=fmt)
        found = _one_format(source, paths)
        return found if found.fault is not None else _without_hub_settings(source, found)
    if fmt is None and _HUB_NAME.fullmatch(source.path):
        return _look_up_hub(source)
    return _broken(source, "file_missing", "does not exist", format=fmt)


def _look_up_hub(source: DataSource) -> Files:
    if source.split is not None:
        return Files("hub", ())
    what = (
        "is a hub data set" if source.format == "hub" else "is no file here; taken for a hub data set, it is"
    )
    remedy = "Name the split (`split`, --split), such as train; or correct the path."
    message = f"{what} without a split"
    return _broken(source, "bad_source", message, field="split", format="hub", remedy=remedy)


def _look_up_folder(source: DataSource, folder: Path) -> Files:
    if source.format in (None, "arrow"):
        if (folder / "dataset_dict.json").is_file():
            return _saved_split(source, folder)
        if _is_saved(folder):
            return _saved(source, folder)
    files = [path for path in folder.iterdir() if not path.is_dir()]
    paths = [path for path in files if not path.name.startswith(".") and not NOT_DATA.fullmatch(path.name)]
    if not paths:
        message = "is a folder without data files of its own (a pattern with ** reads those in its folders)"
        return _broken(source, "file_missing", message)
    return _one_format(source, paths)


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def _saved_split(source: DataSource, folder: Path) -> Files:
    """A DatasetDict as `save_to_disk` leaves it: a folder for each split."""
    splits = _read_list(folder / "dataset_dict.json", "splits")
    if splits is None:
        return _broken(source, "bad_arrow", "has a dataset_dict.json that cannot be read", format="arrow")
    if source.split is None or source.split not in splits:
        what = "without a split" if source.split is None else f"without the split {source.split}"
        message = f"is a saved data set {what}; it has {', '.join(splits)}"
        return _broken(source, "bad_source", message, field="split", format="arrow")
    return _saved(source, folder / source.split)


def _saved(source: DataSource, folder: Path) -> Files:
    """A Dataset as `save_to_disk` leaves it: state.json lists its shards in order."""
    try:
        entries: Any = _read_list(folder / "state.json", "_data_files", dict)
        paths = [folder / Path(entry["filename"]).name for entry in entries]
    except (KeyError, TypeError):
        message = f"has a {folder / 'state.json'} that cannot be read"
        return _broken(source, "bad_arrow", message, format="arrow")
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        return _broken(source, "bad_arrow", f"lacks the shard {missing.name}", format="arrow")
    return Files("arrow", tuple(paths))


def _read_list(path: Path, key: str, kind: type = str) -> list[Any] | None:
    """The list under a key of a JSON file; None where there is no list of that kind."""
    try:
        content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError, FileNotFoundError):
        return None
    entries: Any = cast(dict[str, Any], content).get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return None
    listed = cast(list[Any], entries)
    return listed if all(isinstance(entry, kind) for entry in listed) else None


def _one_format(source: DataSource, paths: list[Path]) -> Files:
    """The files by name, numbers in names by size; or why they cannot be read as one source."""
    paths.sort(key=_natural)
    by_format: dict[FileFormat | None, Path] = {}
    for path in paths:
        if not path.is_file():
            kind = "link to nothing" if path.is_symlink() and not path.exists() else "special file"
            return _broken(source, "not_a_file", f"is a {kind}, not a file", path=path)
        by_format.setdefault(source.format or _format_of(path), path)
    if len(by_format) > 1 and None not in by_format:
        named = ", ".join(f"{fmt} ({path.name})" for fmt, path in by_format.items())
        return _broken(source, "mixed_formats", f"holds files of several formats: {named}")
    if None in by_format:
        path = by_format[None]
        message = f"has a suffix that names no format: {path.suffix or 'none'}"
        return _broken(source, "unknown_format", message, path=path)
    return Files(next(iter(by_format)), tuple(paths))


def _format_of(path: Path) -> FileFormat | None:
    if not is_compressed(path):
        return _SUFFIXES.get(path.suffix.lower())
    inner = _SUFFIXES.get(Path(path.stem).suffix.lower())
    return inner if inner in PACKABLE else None


def _natural(path: Path) -> tuple[list[list[str | int]], str]:
    """Sorts part-2 before part-10: every other piece of a name is a number."""
    pieces = [re.split(r"([0-9]+)", part) for part in path.parts]
    return [[int(p) if i % 2 else p for i, p in enumerate(part)] for part in pieces], str(path)


def _without_hub_settings(source: DataSource, found: Files) -> Files:
    is_split = (Path(source.path) / "dataset_dict.json").is_file()
    for name in ("split", "config", "revision"):
        if getattr(source, name) is not None and not (name == "split" and is_split):
            what = "is a file" if os.path.isfile(source.path) else "is read from files"
            return _broken(
                source, "bad_source", f"{what}, which has no {name}", field=name, format=found.format
            )
    return found


def _broken(
    source: DataSource,
    code: str,
    message: str,
    *,
    field: str | None = None,
    path: Path | None = None,
    format: FileFormat | None = None,
    remedy: str | None = None,
) -> Files:
    place = Place(source.path if path is None else str(path))
    fault = make_fault(code, place, message, field=field, remedy=remedy)
    return Files(format or source.format, (), fault)
