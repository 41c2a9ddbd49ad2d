"""Folders that are built once and then shared, by ranks and by later runs: `<root>/<key>`, found whole or not at all.

`datasets` has a cache of its own; it writes nothing to the disk for certain, does not notice a cut file, and gives up
the error of a row for one of its own.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.durable import explain_write_errors, rename_folder, sync_tree
from rlhf.errors import UsageError

WRITING = ".writing-"


def shared_folder(
    root: Path, key: str, build: Callable[[Path], None], *, is_whole: Callable[[Path], bool]
) -> Path:
    """`<root>/<key>`, built here unless another process has built it; one that is being built is waited for.

    Whoever comes first holds `<key>.lock`, which the kernel drops with its owner, and builds in a folder that gets its
    name once it is written to the disk. What a killed builder has left is removed. No process waits in a collective,
    so no time-out of NCCL is at stake.

    Args:
        root: made where it does not exist.
        key: names everything that decides the content.
        build: fills an empty folder; its errors leave nothing behind.
        is_whole: whether a folder is as it was built; one that is not is built anew, which is told.

    Raises:
        UsageError: `root` cannot be written or locked.
    """
    target = root / key
    if is_whole(target):
        return target
    with explain_write_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with _locked(root, key):
        if is_whole(target):
            return target
        if target.exists():
            print(f"{target} is damaged; it is built anew", flush=True)
        with explain_write_errors(root):
            shutil.rmtree(target, ignore_errors=True)
            _sweep(root, key)
            _build(root / f"{WRITING}{key}", target, build)
    return target


def _build(writing: Path, target: Path, build: Callable[[Path], None]) -> None:
    writing.mkdir()
    try:
        build(writing)
        sync_tree(writing)
        rename_folder(writing, target)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _sweep(root: Path, key: str) -> None:
    """Remove what killed builders have left: folders whose lock nobody holds, and our own."""
    for left in root.glob(f"{WRITING}*"):
        other = left.name.removeprefix(WRITING)
        if other == key:
            shutil.rmtree(left)
            continue
        with (root / f"{other}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(root: Path, key: str) -> Iterator[None]:
    with explain_write_errors(root):
        descriptor = os.open(root / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise UsageError(
                f"{root}: this file system cannot lock files: {error.strerror or error}",
                "Choose a workspace on one that can: two processes at once would spoil each other's work.",
            ) from error
        yield
    finally:
        os.close(descriptor)
