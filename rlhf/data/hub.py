"""Hub data sets through `datasets`, in its memory-mapped cache."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from rlhf.data.fault import Fault, make_fault
from rlhf.data.place import Place, Row
from rlhf.data.progress import TOLD_ROWS, Progress
from rlhf.recipe.data import DataSource


def hub_name(source: DataSource) -> str:
    """The data set and its split, where one is named, as places show it, such as `owner/name[train]`."""
    return source.path if source.split is None else f"{source.path}[{source.split}]"


def read_hub(source: DataSource, progress: Progress | None = None) -> Iterator[Row | Fault]:
    """The split's rows in order, numbered from 1; a data set that does not load is one fault."""
    # imported here: `datasets` takes seconds to load
    datasets: Any = import_module("datasets")
    name = hub_name(source)
    arrow: Any = import_module("pyarrow")
    # a data set can also need a package that is not there, or hold values that Python cannot
    broken = (datasets.exceptions.DatasetsError, arrow.ArrowException)
    errors = (*broken, OSError, ValueError, OverflowError, ImportError)
    row = 0
    try:
        rows = datasets.load_dataset(source.path, source.config, split=source.split, revision=source.revision)
        for row, values in enumerate(rows, 1):
            yield Row(values, Place(name, None, row))
            if progress is not None and row % TOLD_ROWS == 0:
                progress(row / len(rows))
    except errors as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        where = "" if row == 0 else f" after row {row}"
        yield make_fault("hub_unavailable", Place(name), f"does not load{where}: {reason}")
