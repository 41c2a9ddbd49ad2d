"""Pairs of one prompt that cannot all be right: contradictions and circles of preferences."""

from array import array
from collections.abc import Container, Iterator

from rlhf.data.across.collisions import SMALL, collisions
from rlhf.data.across.finding import Finding

_ROUNDS = 8
"""Rounds in which pairs that lie on no circle are taken out; what is left is walked through."""


def find_contradictions(chosen: "array[int]", rejected: "array[int]") -> Iterator[Finding]:
    """Each row whose chosen answer is rejected, and whose rejected answer is chosen, in another row.

    Args:
        chosen: a key of each row's prompt and chosen answer.
        rejected: the same of the rejected one.
    """
    for group in collisions(array("Q", (one ^ other for one, other in zip(chosen, rejected, strict=True)))):
        start = chosen[group[0]]
        one = [row for row in group if chosen[row] == start]
        other = [row for row in group if chosen[row] != start]
        for rows, opposed in ((one, other), (other, one)):
            for row in rows if opposed else ():
                yield Finding(
                    "contradiction",
                    row,
                    "prefers the answer that is rejected, and rejects the one preferred, at",
                    opposed[0],
                )


def find_cycles(chosen: "array[int]", rejected: "array[int]", undecided: Container[int]) -> Iterator[Finding]:
    """Each row that lies on a circle of preferences of three or more answers.

    Args:
        chosen, rejected: see `find_contradictions`.
        undecided: rows that contradict one another outright: they make no circle with others.
    """
    rows = [row for row in _candidates(chosen, rejected) if row not in undecided]
    component = _components([(chosen[row], rejected[row]) for row in rows])
    on_circle = [row for row in rows if component[chosen[row]] == component[rejected[row]]]
    next_row = {chosen[row]: row for row in reversed(on_circle)}
    for row in on_circle:
        message = (
            "is part of a circle of preferences: what it rejects is preferred to another of its answers at"
        )
        yield Finding("preference_cycle", row, message, next_row[rejected[row]])


def _candidates(chosen: "array[int]", rejected: "array[int]") -> list[int]:
    """Rows that may lie on a circle: what they reject is preferred somewhere, what they prefer is rejected."""
    if len(chosen) <= SMALL:
        return list(range(len(chosen)))
    import numpy as np

    better, worse = np.frombuffer(chosen, np.uint64), np.frombuffer(rejected, np.uint64)
    rows = np.arange(len(better), dtype=np.uint32)
    for _ in range(_ROUNDS):
        kept = np.isin(worse[rows], better[rows])
        kept &= np.isin(better[rows], worse[rows])
        if kept.all():
            break
        rows = rows[kept]
    return rows.tolist()


def _components(edges: list[tuple[int, int]]) -> dict[int, int]:
    """Node -> a number for its strongly connected component, by Kosaraju's algorithm (Sharir 1981)."""
    ahead: dict[int, list[int]] = {}
    behind: dict[int, list[int]] = {}
    for start, end in edges:
        ahead.setdefault(start, []).append(end)
        ahead.setdefault(end, [])
        behind.setdefault(end, []).append(start)
    finished: list[int] = []
    seen: set[int] = set()
    for node in ahead:
        finished += _walk(node, ahead, seen)
    component: dict[int, int] = {}
    seen = set()
    for node in reversed(finished):
        for reached in _walk(node, behind, seen):
            component[reached] = node
    return component


def _walk(root: int, neighbours: dict[int, list[int]], seen: set[int]) -> list[int]:
    """What can be reached from the root and was not seen before, in the order in which a depth-first walk leaves it."""
    if root in seen:
        return []
    seen.add(root)
    left: list[int] = []
    path = [(root, iter(neighbours.get(root, ())))]
    while path:
        node, rest = path[-1]
        following = next((other for other in rest if other not in seen), None)
        if following is None:
            left.append(node)
            path.pop()
        else:
            seen.add(following)
            path.append((following, iter(neighbours.get(following, ()))))
    return left
