"""Garbage collection keeps the newest, the aliased, the protected, and what they were made from."""

import pytest

from rlhf.errors import RegistryError


def _left(registry):
    return [artefact.reference for artefact in registry.list().artefacts]


def test_gc_keeps_newest_aliased_and_lineage(registry, publish):
    first = publish("sft")
    reward = publish("reward", parents={"base": first})
    for _ in range(4):
        publish("sft")
    publish("ppo", parents={"reward": reward})
    registry.set_alias("sft", "best", 3)
    removed = registry.gc(keep=1)
    assert {each.reference for each in removed} == {"sft@2", "sft@4"}
    assert _left(registry) == ["ppo@1", "reward@1", "sft@1", "sft@3", "sft@5"]
    assert registry.lineage("ppo").problems() == []
    assert not any(each.path.exists() for each in removed)
    assert list((registry.root / ".staging").iterdir()) == []
    assert publish("sft").reference == "sft@6"


def test_gc_drops_a_parent_with_its_last_child_and_children_first(registry, publish):
    publish("ppo", parents={"policy": publish("base")})
    publish("ppo", parents={"policy": publish("base")})
    removed = [each.reference for each in registry.gc(keep=1)]
    assert removed == ["ppo@1", "base@1"]


def test_dry_run_deletes_nothing(registry, publish):
    for _ in range(3):
        publish("sft")
    planned = registry.gc(keep=1, dry_run=True)
    assert {each.reference for each in planned} == {"sft@1", "sft@2"}
    assert _left(registry) == ["sft@1", "sft@2", "sft@3"]
    # 8 + 3 bytes of files, and a manifest and its seal of 64 + 16 bytes.
    manifest = (registry.root / "sft" / "1" / "manifest.json").stat().st_size
    assert {each.num_bytes for each in planned} == {8 + 3 + manifest + 80}
    assert {each.reference for each in registry.gc(keep=1)} == {"sft@1", "sft@2"}


def test_protected_references_stay(registry, publish):
    for _ in range(4):
        publish("sft")
    registry.gc(keep=1, protect=["sft@2"])
    assert _left(registry) == ["sft@2", "sft@4"]
    with pytest.raises(RegistryError, match="versions: 2, 4"):
        registry.gc(keep=1, protect=["sft@1"])


def test_unknown_lineage_stops_gc(registry, publish):
    for _ in range(3):
        publish("sft")
    (registry.root / "sft" / "3" / "manifest.json").unlink()
    with pytest.raises(RegistryError, match=r"sft@3 .*manifest\.json"):
        registry.gc(keep=1)
    assert _left(registry) == ["sft@1", "sft@2"]


def test_gc_of_nothing(registry):
    assert registry.gc(keep=1) == []
    assert not registry.root.exists()
    with pytest.raises(RegistryError, match="keep=0"):
        registry.gc(keep=0)


def test_gc_spares_the_staging_folder_of_a_living_process(registry, publish):
    staged = registry.staging("sft")
    (staged / "model.safetensors").write_bytes(b"x")
    assert registry.gc(keep=1) == []
    assert (staged / "model.safetensors").exists()
