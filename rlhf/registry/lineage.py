"""What an artefact was made from, back to the first stage, with every recorded digest checked."""

from collections.abc import Callable
from dataclasses import dataclass

from rlhf.errors import RegistryError
from rlhf.registry.artefact import Artefact
from rlhf.registry.manifest import Parent


@dataclass(frozen=True)
class LineageNode:
    """One artefact in the tree."""

    reference: str
    role: str | None
    """What it was to its child; None at the root."""
    artefact: Artefact | None
    """None where it is gone or cannot be read."""
    problem: str | None
    """Why it is not what its child was made from, where it is not."""
    parents: "tuple[LineageNode, ...]"

    def problems(self) -> list[str]:
        """Every problem in the tree, each once."""
        found = [self.problem] if self.problem else []
        for parent in self.parents:
            found += parent.problems()
        return list(dict.fromkeys(found))


def trace(artefact: Artefact, resolve: Callable[[str], Artefact]) -> LineageNode:
    """Build the tree over an artefact's parents; a missing or changed parent is a problem in it, not an exception."""
    return LineageNode(
        artefact.reference, None, artefact, None, _parents(artefact, resolve, (artefact.reference,))
    )


def _parents(
    child: Artefact, resolve: Callable[[str], Artefact], path: tuple[str, ...]
) -> tuple[LineageNode, ...]:
    return tuple(_node(parent, child.reference, resolve, path) for parent in child.manifest.parents)


def _node(
    parent: Parent, child: str, resolve: Callable[[str], Artefact], path: tuple[str, ...]
) -> LineageNode:
    if parent.reference in path:
        return LineageNode(parent.reference, parent.role, None, f"{parent.reference} is its own ancestor", ())
    try:
        artefact = resolve(parent.reference)
    except RegistryError as error:
        problem = f"{parent.role} of {child}: {error.message}"
        return LineageNode(parent.reference, parent.role, None, problem, ())
    problem = None
    if artefact.digest != parent.digest:
        problem = (
            f"{parent.reference} is not the {parent.role} that {child} was made from: "
            f"digest {artefact.digest}, recorded {parent.digest}"
        )
    ancestors = _parents(artefact, resolve, (*path, parent.reference))
    return LineageNode(parent.reference, parent.role, artefact, problem, ancestors)
