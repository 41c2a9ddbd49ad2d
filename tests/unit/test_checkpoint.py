"""Checkpoints: complete ones are found, damaged ones are named, old ones go."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.checkpoint import Checkpoints
from rlhf.durable import free_disk_bytes, require_disk
from rlhf.errors import CheckpointError, UsageError


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def _save(checkpoints, step, content=b"state", **metrics):
    path = checkpoints.begin(step)
    (path / "rank").mkdir()
    (path / "model.safetensors").write_bytes(content)
    (path / "rank" / "rng-0.json").write_bytes(b"1234")
    return checkpoints.commit(step, metrics=metrics or None)


def _steps(checkpoints):
    return [checkpoint.step for checkpoint in checkpoints.complete()]


def test_nothing_yet(checkpoints):
    assert (checkpoints.complete(), checkpoints.newest(), checkpoints.problems()) == ([], None, [])
    assert checkpoints.best("loss", greater_is_better=False) is None
    assert checkpoints.prune(1) == []


def test_sorted_by_number_and_newest(checkpoints):
    for step in (9, 100, 20, 0):
        _save(checkpoints, step)
    assert _steps(checkpoints) == [0, 9, 20, 100]
    newest = checkpoints.newest()
    assert (newest.step, newest.path) == (100, checkpoints.folder / "step-100")
    assert (newest.path / "model.safetensors").read_bytes() == b"state"


def test_begun_is_not_complete_and_begin_wipes_leftovers(checkpoints):
    path = checkpoints.begin(5)
    (path / "half").write_bytes(b"x")
    assert checkpoints.newest() is None
    assert list(checkpoints.begin(5).iterdir()) == []


def test_commit_needs_content(checkpoints):
    with pytest.raises(CheckpointError, match="holds no file"):
        checkpoints.commit(1)
    checkpoints.begin(1)
    with pytest.raises(CheckpointError, match="holds no file"):
        checkpoints.commit(1)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda path: (path / "COMPLETE.json").unlink(), "COMPLETE.json"),
        (lambda path: (path / "COMPLETE.json").write_text("{"), "not a marker"),
        (lambda path: (path / "rank" / "rng-0.json").unlink(), "rank/rng-0.json is missing"),
        (
            lambda path: (path / "rank" / "rng-0.json").write_bytes(b"123"),
            "rng-0.json has 3 bytes, was saved with 4",
        ),
    ],
)
def test_damaged_is_skipped_with_a_word(checkpoints, caplog, damage, word):
    _save(checkpoints, 1)
    damage(_save(checkpoints, 2))
    assert checkpoints.newest().step == 1
    assert len(caplog.records) == 1
    assert word in caplog.text
    [problem] = checkpoints.problems()
    assert word in problem
    assert "step-2" in problem


def test_renamed_checkpoint_is_damaged(checkpoints):
    _save(checkpoints, 1).rename(checkpoints.folder / "step-7")
    assert checkpoints.newest() is None
    assert "is that of step 1" in checkpoints.problems()[0]


def test_same_step_again_replaces(checkpoints):
    _save(checkpoints, 3, b"old")
    path = _save(checkpoints, 3, b"newer")
    assert (path / "model.safetensors").read_bytes() == b"newer"
    assert [entry.name for entry in checkpoints.folder.iterdir()] == ["step-3"]


@pytest.mark.parametrize("renames_before_death", [0, 1, 2])
def test_killed_while_replacing_loses_no_step(checkpoints, renames_before_death):
    _save(checkpoints, 3, b"old")
    code = f"""
import os, signal
import rlhf.checkpoint as module
checkpoints = module.Checkpoints({str(checkpoints.folder)!r})
(checkpoints.begin(3) / "model.safetensors").write_bytes(b"newer")
real, count = module.rename_folder, 0
def rename(source, target):
    global count
    if count == {renames_before_death}:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    real(source, target)
def rmtree(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
module.rename_folder, module.shutil.rmtree = rename, rmtree
checkpoints.commit(3)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run([sys.executable, "-c", code], check=False, env=env)
    assert died.returncode == -signal.SIGKILL
    expected = b"newer" if renames_before_death == 2 else b"old"
    assert _steps(checkpoints) == [3]
    assert (checkpoints.newest().path / "model.safetensors").read_bytes() == expected
    checkpoints.prune(1)
    assert (checkpoints.newest().path / "model.safetensors").read_bytes() == expected
    assert len(list(checkpoints.folder.iterdir())) == 1
    _save(checkpoints, 3, b"third")
    assert [entry.name for entry in checkpoints.folder.iterdir()] == ["step-3"]


def test_best_is_the_earliest_of_equals(checkpoints):
    for step, loss in ((1, 0.9), (2, 0.5), (3, 0.5), (4, 0.7)):
        _save(checkpoints, step, loss=loss)
    _save(checkpoints, 5)
    assert checkpoints.best("loss", greater_is_better=False).step == 2
    assert checkpoints.best("loss", greater_is_better=True).step == 1
    assert checkpoints.best("loss", greater_is_better=False).metrics == {"loss": 0.5}
    assert checkpoints.best("accuracy", greater_is_better=True) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_metric_must_be_finite(checkpoints, value):
    with pytest.raises(CheckpointError, match="not finite"):
        _save(checkpoints, 1, loss=value)
    assert checkpoints.newest() is None


def test_prune_keeps_last_named_and_damaged(checkpoints):
    for step in range(1, 7):
        _save(checkpoints, step)
    (checkpoints.folder / "step-2" / "COMPLETE.json").unlink()
    (checkpoints.folder / ".writing-step-9").mkdir()
    (checkpoints.folder / "notes").mkdir()
    started = checkpoints.begin(8)
    removed = checkpoints.prune(2, keep_steps=[1])
    assert {path.name for path in removed} == {"step-3", "step-4", ".writing-step-9"}
    assert _steps(checkpoints) == [1, 5, 6]
    left = {entry.name for entry in checkpoints.folder.iterdir()}
    assert left == {"step-1", "step-2", "step-5", "step-6", "notes", started.name}
    with pytest.raises(UsageError, match="keep_last=0"):
        checkpoints.prune(0)


def test_interrupted_prune_is_finished_by_the_next(checkpoints):
    _save(checkpoints, 1).rename(checkpoints.folder / ".removing-step-1")
    _save(checkpoints, 1)
    _save(checkpoints, 2)
    checkpoints.prune(1)
    assert [entry.name for entry in checkpoints.folder.iterdir()] == ["step-2"]


def test_full_disk_leaves_older_checkpoints(checkpoints, monkeypatch):
    _save(checkpoints, 1)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("rlhf.checkpoint.write_atomic", full)
    with pytest.raises(UsageError, match="No space left") as caught:
        _save(checkpoints, 2)
    assert "Free space" in caught.value.remedy
    assert checkpoints.newest().step == 1


def test_disk_figures(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3 * 2**30))
    assert free_disk_bytes(tmp_path / "not" / "there") == 3 * 2**30
    require_disk(tmp_path, 3 * 2**30, "the run")
    with pytest.raises(UsageError, match=r"the run needs 4\.5 GiB at .* 3\.0 GiB are free"):
        require_disk(tmp_path, 9 * 2**29, "the run")


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_changed_byte_in_the_newest_is_noticed_and_the_one_before_is_taken(checkpoints, caplog):
    _save(checkpoints, 1)
    _flip(_save(checkpoints, 2) / "rank" / "rng-0.json")
    assert _steps(checkpoints) == [1, 2], "sizes alone say nothing"
    assert checkpoints.recover().step == 1
    assert "rank/rng-0.json: not the bytes that were saved; it is kept as damaged-step-2" in caplog.text
    assert sorted(entry.name for entry in checkpoints.folder.iterdir()) == ["damaged-step-2", "step-1"]
    _save(checkpoints, 2)
    checkpoints.prune(1)
    assert checkpoints.recover().step == 2


def test_a_damaged_one_does_not_count_among_those_to_keep(checkpoints):
    _save(checkpoints, 10)
    _flip(_save(checkpoints, 40) / "model.safetensors")
    assert checkpoints.recover().step == 10
    _save(checkpoints, 20)
    checkpoints.prune(1)
    assert _steps(checkpoints) == [20]


def test_a_damaged_replacement_gives_way_to_what_it_replaced(checkpoints):
    _save(checkpoints, 3, b"old").rename(checkpoints.folder / ".replaced-step-3")
    _flip(_save_beside(checkpoints, 3) / "model.safetensors")
    recovered = checkpoints.recover()
    assert (recovered.step, (recovered.path / "model.safetensors").read_bytes()) == (3, b"old")


def _save_beside(checkpoints, step):
    other = Checkpoints(checkpoints.folder.parent / "other")
    return _save(other, step, b"newer").rename(checkpoints.folder / f"step-{step}")


def test_a_checkpoint_of_an_older_version_has_no_digests_and_counts_by_its_sizes(checkpoints):
    marker = _save(checkpoints, 1) / "COMPLETE.json"
    content = json.loads(marker.read_text())
    assert content.pop("digests") == {
        "model.safetensors": hashlib.sha256(b"state").hexdigest(),
        "rank/rng-0.json": hashlib.sha256(b"1234").hexdigest(),
    }
    marker.write_text(json.dumps(content))
    assert checkpoints.recover().step == 1


def test_a_start_clears_away_what_interrupted_saves_left_and_says_so(checkpoints, caplog):
    _save(checkpoints, 1)
    (checkpoints.begin(2) / "half").write_bytes(b"x")
    (checkpoints.folder / ".removing-step-0").mkdir()
    assert Checkpoints(checkpoints.folder).recover().step == 1
    assert [entry.name for entry in checkpoints.folder.iterdir()] == ["step-1"]
    removed = [record.args[0].name for record in caplog.records]
    assert removed == [".removing-step-0", ".writing-step-2"]


def test_the_best_one_is_proved_before_it_is_loaded(checkpoints):
    path = _save(checkpoints, 5)
    assert checkpoints.prove(5).path == path
    _flip(path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no undamaged checkpoint of step 5"):
        checkpoints.prove(5)
    with pytest.raises(CheckpointError, match="of step 6"):
        checkpoints.prove(6)


@pytest.mark.parametrize("function", ["begin", "sync_tree", "_digests", "write_atomic", "rename_folder"])
def test_killed_anywhere_in_a_save_leaves_the_last_whole_one(checkpoints, function):
    _save(checkpoints, 1, b"old")
    code = f"""
import os, signal
import rlhf.checkpoint as module
checkpoints = module.Checkpoints({str(checkpoints.folder)!r})
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
path = checkpoints.begin(2)
(path / "model.safetensors").write_bytes(b"new")
die() if {function!r} == "begin" else setattr(module, {function!r}, die)
checkpoints.commit(2)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run([sys.executable, "-c", code], check=False, env=env)
    assert died.returncode == -signal.SIGKILL
    newest = checkpoints.recover()
    assert (newest.step, (newest.path / "model.safetensors").read_bytes()) == (1, b"old")
    assert [entry.name for entry in checkpoints.folder.iterdir()] == ["step-1"]
