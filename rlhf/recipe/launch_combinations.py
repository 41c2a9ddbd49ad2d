"""Impossible combinations within `launch`, and of it with the rest; see `combinations`."""

from collections.abc import Iterator

from rlhf.recipe.tree import Fault, Tree, at, whole


def find_launch(tree: Tree) -> Iterator[Fault]:
    """Each impossible combination as (path in the file, message)."""
    yield from _machines(tree)
    yield from _config(tree)
    if at(tree, "launch", "cpu_offload") is True and at(tree, "launch", "strategy") == "ddp":
        message = "cpu_offload moves what a strategy shares out, and ddp shares out nothing: take zero2, zero3 or fsdp2"
        yield ("launch", "cpu_offload"), message


def world_size(tree: Tree) -> int | None:
    """Processes on all machines together, None where one of the numbers is broken."""
    processes, machines = whole(tree, "launch", "num_processes"), whole(tree, "launch", "num_machines")
    return processes * machines if processes and machines else None


def _machines(tree: Tree) -> Iterator[Fault]:
    machines = whole(tree, "launch", "num_machines")
    if not machines:
        return
    rendezvous, prefix = at(tree, "launch", "rendezvous"), at(tree, "launch", "prefix")
    if machines == 1:
        if rendezvous is not None:
            yield (
                ("launch", "rendezvous"),
                "only several machines have to find each other: set num_machines, or leave it out",
            )
        return
    if rendezvous is None:
        yield (
            ("launch", "rendezvous"),
            f"num_machines={machines} need rendezvous: host:port of the first of them",
        )
    if prefix == []:
        yield (
            ("launch", "prefix"),
            f"num_machines={machines} need a prefix that starts the command on each of them, such as [srun, --ntasks-per-node=1]",
        )


def _config(tree: Tree) -> Iterator[Fault]:
    if at(tree, "launch", "accelerate_config") is None:
        return
    where = ("launch", "accelerate_config")
    strategy, machines = at(tree, "launch", "strategy"), whole(tree, "launch", "num_machines")
    if strategy not in (None, "ddp"):
        yield (
            where,
            f"the file says what is shared out, and so does strategy: {strategy}: leave one of them out",
        )
    if machines and machines > 1:
        yield (
            where,
            f"num_machines={machines} start through torchrun, a configuration file through Accelerate: take strategy",
        )
