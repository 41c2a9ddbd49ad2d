"""Publishing: what lands where, what is refused, what a killed process leaves."""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from registry_drafts import make_draft

from rlhf.errors import RegistryError, UsageError
from rlhf.registry import Base, Manifest, Probe, Registry


def test_artefact_holds_files_and_manifest(registry, publish):
    artefact = publish("sft")
    assert artefact.reference == "sft@1"
    assert artefact.path == registry.root / "sft" / "1"
    raw = (artefact.path / "manifest.json").read_bytes()
    assert artefact.digest == hashlib.sha256(raw).hexdigest()
    document = json.loads(raw)
    # sha256("abc"): FIPS 180-2, appendix B.1.
    assert document["files"]["weights/model.safetensors"] == {
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "size": 3,
    }
    assert sorted(document["files"]) == ["config.json", "weights/model.safetensors"]
    assert (document["name"], document["version"], document["format_version"]) == ("sft", 1, 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.?\d*Z", document["created"])


def test_seal_is_read_by_sha256sum(publish):
    path = publish("sft").path
    subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=path, check=True, stdout=subprocess.DEVNULL)


def test_versions_count_up_and_staging_is_left_empty(registry, publish):
    assert [publish("sft").reference for _ in range(3)] == ["sft@1", "sft@2", "sft@3"]
    assert publish("reward").reference == "reward@1"
    assert list((registry.root / ".staging").iterdir()) == []


def test_version_of_a_damaged_artefact_is_not_taken_again(registry, publish):
    (publish("sft").path / "manifest.json").unlink()
    assert publish("sft").reference == "sft@2"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a/optimizer.PT", "x.pth", "x.pkl"])
def test_pickled_weights_are_refused(registry, name):
    staged = registry.staging("sft")
    (staged / name).parent.mkdir(exist_ok=True)
    (staged / name).write_bytes(b"x")
    with pytest.raises(RegistryError, match=re.escape(name)) as caught:
        registry.publish(staged, make_draft("sft"))
    assert "safetensors" in str(caught.value.remedy)
    assert registry.list().artefacts == ()
    (staged / name).rename(staged / "model.safetensors")
    assert registry.publish(staged, make_draft("sft")).reference == "sft@1"


@pytest.mark.parametrize("target", ["/etc/hostname", "config.json", "/etc", "nowhere"])
def test_symbolic_links_are_refused(registry, target):
    staged = registry.staging("sft")
    (staged / "config.json").write_text("{}")
    (staged / "link").symlink_to(target)
    with pytest.raises(RegistryError, match="link: a symbolic link"):
        registry.publish(staged, make_draft("sft"))


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256"])
def test_own_manifest_is_refused(registry, name):
    staged = registry.staging("sft")
    (staged / name).write_text("{}")
    with pytest.raises(RegistryError, match="the registry writes this file"):
        registry.publish(staged, make_draft("sft"))


def test_empty_folder_is_refused(registry):
    with pytest.raises(RegistryError, match="no file"):
        registry.publish(registry.staging("sft"), make_draft("sft"))


def test_only_its_own_staging_folder_is_published_once(registry, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RegistryError, match="not a staging folder"):
        registry.publish(tmp_path, make_draft("sft"))
    staged = registry.staging("sft.v2")
    (staged / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RegistryError, match="not a staging folder of sft "):
        registry.publish(staged, make_draft("sft"))
    registry.publish(staged, make_draft("sft.v2"))
    with pytest.raises(RegistryError, match="not a staging folder"):
        registry.publish(staged, make_draft("sft.v2"))


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../a", "a b", "a@1", "é", "a\n", "-a", "x" * 101]
)
def test_names_that_could_leave_the_registry_are_refused(registry, name):
    with pytest.raises(RegistryError, match="cannot name an artefact"):
        registry.staging(name)
    assert not registry.root.exists()


def test_workspace_that_cannot_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to") as caught:
        Registry(tmp_path / "file" / "registry").staging("sft")
    assert caught.value.exit_code == 2
    assert caught.value.remedy


def _publish_ten(root: Path, mark: int) -> None:
    for index in range(10):
        registry = Registry(root)
        staged = registry.staging("sft")
        (staged / "model.safetensors").write_bytes(b"%d-%d" % (mark, index))
        registry.publish(staged, make_draft("sft", inputs=f"{mark}-{index}"))


@pytest.mark.parametrize("locks", [True, False])
def test_two_processes_publish_at_once(registry, locks, monkeypatch):
    if not locks:
        monkeypatch.setattr("fcntl.flock", _no_locks)
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_publish_ten, args=(registry.root, mark)) for mark in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    artefacts = registry.list().artefacts
    assert [artefact.manifest.version for artefact in artefacts] == list(range(1, 21))
    # Each artefact's content is that of its own manifest, and none was lost.
    contents = {(artefact.path / "model.safetensors").read_text() for artefact in artefacts}
    assert contents == {f"{mark}-{index}" for mark in (0, 1) for index in range(10)}
    assert all(
        (each.path / "model.safetensors").read_text() == each.manifest.inputs_digest for each in artefacts
    )
    assert [problem for artefact in artefacts for problem in registry.verify(artefact.reference)] == []


def _no_locks(descriptor: int, operation: int) -> None:
    raise OSError(38, "Function not implemented")


@pytest.mark.parametrize("moment", ["hash", "seal", "rename"])
def test_killed_while_publishing_leaves_nothing_visible(registry, publish, moment):
    publish("sft")
    target = {
        "hash": "rlhf.registry.store.take_stock",
        "seal": "rlhf.registry.artefact.write_atomic",
        "rename": "rlhf.registry.store.rename_folder",
    }[moment]
    code = f"""
import os, signal, unittest.mock
from registry_drafts import make_draft
from rlhf.registry import Registry
registry = Registry({str(registry.root)!r})
staged = registry.staging("sft")
(staged / "model.safetensors").write_bytes(b"x")
with unittest.mock.patch({target!r}, lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
    registry.publish(staged, make_draft("sft"))
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    died = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "PYTHONPATH": path})
    assert died.returncode == -signal.SIGKILL
    assert [artefact.reference for artefact in registry.list().artefacts] == ["sft@1"]
    assert registry.list().problems == ()
    assert registry.verify("sft") == []
    [slot] = (registry.root / ".staging").iterdir()
    [removed] = registry.gc(keep=1)
    assert (removed.path, removed.reference) == (slot, None)
    assert removed.num_bytes >= 1
    assert not slot.exists()
    assert publish("sft").reference == "sft@2"


def test_staging_sweeps_the_dead_and_spares_the_living(registry):
    mine = registry.staging("sft")
    dead = registry.root / ".staging" / "sft.dead"
    (dead / "files").mkdir(parents=True)
    (dead / "lock").touch()
    other = registry.staging("sft")
    assert mine.is_dir()
    assert other.is_dir()
    assert not dead.exists()


def test_young_slot_of_another_host_is_spared(registry):
    registry.staging("sft")
    foreign = registry.root / ".staging" / "sft.foreign"
    (foreign / "files").mkdir(parents=True)
    (foreign / "lock").write_text("another-host")
    assert registry.gc(keep=1) == []
    a_day_and_a_minute_ago = time.time() - 86_460
    os.utime(foreign / "lock", (a_day_and_a_minute_ago, a_day_and_a_minute_ago))
    assert [removed.path for removed in registry.gc(keep=1)] == [foreign]


def test_nothing_is_swept_without_locks(registry, monkeypatch):
    monkeypatch.setattr("fcntl.flock", _no_locks)
    being_made = registry.root / ".staging" / "sft.young"
    being_made.mkdir(parents=True)
    registry.staging("sft")
    assert registry.gc(keep=1) == []
    assert being_made.is_dir()


def test_drafts_refuse_what_no_reader_could_use():
    with pytest.raises(ValueError, match="2 sequences but 1 scores"):
        Probe(token_ids=[[1], [2]], scores=[0.5], tolerance=1e-4)
    with pytest.raises(ValueError, match="finite"):
        make_draft("sft").model_validate({**dict(make_draft("sft")), "metrics": {"loss": float("nan")}})
    with pytest.raises(ValueError, match="Extra inputs"):
        Manifest.model_validate({**dict(make_draft("sft")), "unknown": 1})
    base = Base(path="registry:sft@1", revision=None, digest="0")
    with pytest.raises(ValueError, match="among the parents"):
        make_draft("sft").model_validate({**dict(make_draft("sft")), "base": base})


def test_registry_imports_without_torch():
    code = "import sys, rlhf.registry, rlhf.checkpoint; sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=env).returncode == 0
