"""Where each of many records lies, in a few bytes for each run of neighbouring rows."""

from array import array
from bisect import bisect_right

from rlhf.data.place import Place


class Places:
    """Ordinal of a record -> its place. Rows that follow each other line by line cost nothing."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._starts = array("q")
        """Ordinal of each run's first record."""
        self._runs = array("q")
        """For each run: index of its path, line and row of its first record; 0 for none."""
        self._size = 0
        self._due: Place | None = None

    def __len__(self) -> int:
        return self._size

    def add(self, place: Place) -> None:
        """The next record's place."""
        if place != self._due:
            self._begin(place.path, self._size, place.line or 0, place.row or 0)
        self._size += 1
        path, line, row = place
        self._due = Place(path, None if line is None else line + 1, None if row is None else row + 1)

    def _begin(self, path: str, start: int, line: int, row: int) -> None:
        if not self._paths or self._paths[-1] != path:
            self._paths.append(path)
        self._starts.append(start)
        self._runs.extend((len(self._paths) - 1, line, row))

    def extend(self, other: "Places", lines: int, rows: int) -> None:
        """The records of a block that begins after so many lines and rows of its file."""
        for index, start in enumerate(other._starts):
            path, line, row = other._runs[3 * index : 3 * index + 3]
            moved = (line + lines if line else 0, row + rows if row else 0)
            self._begin(other._paths[path], self._size + start, *moved)
        self._size += other._size
        self._due = None

    def __getitem__(self, ordinal: int) -> Place:
        run = bisect_right(self._starts, ordinal) - 1
        path, line, row = self._runs[3 * run : 3 * run + 3]
        ahead = ordinal - self._starts[run]
        return Place(self._paths[path], line + ahead if line else None, row + ahead if row else None)
