"""References, verification, reuse, aliases and lineage."""

import hashlib
import json

import pytest

from rlhf.errors import RegistryError
from rlhf.registry import Registry


def _flip(path, offset=0):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def _rewrite_manifest(path, **changes):
    """What a careful forger does: change the manifest, then its seal."""
    document = {**json.loads((path / "manifest.json").read_bytes()), **changes}
    content = json.dumps(document).encode()
    (path / "manifest.json").write_bytes(content)
    (path / "manifest.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  manifest.json\n")


def test_references(registry, publish):
    for _ in range(11):
        publish("sft")
    registry.set_alias("sft", "best", 2)
    found = {
        reference: registry.resolve(reference).reference
        for reference in ("sft", "sft@latest", "sft@9", "sft@best")
    }
    assert found == {"sft": "sft@11", "sft@latest": "sft@11", "sft@9": "sft@9", "sft@best": "sft@2"}


def test_reference_that_does_not_resolve_lists_what_exists(registry, publish):
    with pytest.raises(RegistryError, match="names: none"):
        registry.resolve("sft")
    publish("sft")
    publish("sft")
    registry.set_alias("sft", "best", 1)
    with pytest.raises(RegistryError, match=r"no artefact is named 'sfd'.*names: sft") as caught:
        registry.resolve("sfd@1")
    assert caught.value.remedy
    for reference in ("sft@3", "sft@worst"):
        with pytest.raises(RegistryError, match="versions: 1, 2; aliases: best -> 1"):
            registry.resolve(reference)


@pytest.mark.parametrize("reference", ["sft@", "sft@0", "sft@01", "sft@-1", "sft@1@2", "sft@1_0", "sft@../x"])
def test_malformed_references(registry, publish, reference):
    publish("sft")
    with pytest.raises(RegistryError, match="is not a reference"):
        registry.resolve(reference)


def test_untouched_artefact_verifies(registry, publish):
    publish("sft")
    assert registry.verify("sft") == []
    assert registry.open_verified("sft").reference == "sft@1"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (
            lambda path: _flip(path / "weights" / "model.safetensors"),
            "weights/model.safetensors: changed: sha256",
        ),
        (
            lambda path: (path / "config.json").write_text("{}"),
            "config.json: changed: 2 bytes, published with 8",
        ),
        (lambda path: (path / "config.json").unlink(), "config.json: missing"),
        (lambda path: (path / "weights" / "extra.py").touch(), "weights/extra.py: not part"),
        (lambda path: (path / "modeling.py").symlink_to("config.json"), "modeling.py: a symbolic link"),
    ],
)
def test_damage_is_found_and_named(registry, publish, damage, problem):
    damage(publish("sft").path)
    [found] = registry.verify("sft@1")
    assert found.startswith(problem)
    with pytest.raises(RegistryError) as caught:
        registry.open_verified("sft@1")
    assert problem in caught.value.message
    assert caught.value.remedy


def test_every_flipped_byte_of_the_manifest_is_found(registry, publish):
    path = publish("sft").path
    for name in ("manifest.json", "manifest.sha256"):
        original = (path / name).read_bytes()
        for offset in range(len(original)):
            _flip(path / name, offset)
            [problem] = registry.verify("sft")
            assert "manifest.json" in problem
            (path / name).write_bytes(original)
    _flip(path / "manifest.json")
    with pytest.raises(RegistryError, match="changed since it was published"):
        registry.resolve("sft")


def test_manifest_of_another_artefact_or_format(registry, publish):
    publish("sft")
    _rewrite_manifest(publish("sft").path, version=1)
    with pytest.raises(RegistryError, match="is that of sft@1"):
        registry.resolve("sft@2")
    _rewrite_manifest(publish("sft").path, format_version=99)
    with pytest.raises(RegistryError, match="manifest format 99; this version reads 1"):
        registry.resolve("sft@3")
    _rewrite_manifest(publish("sft").path, stage="dpo")
    with pytest.raises(RegistryError, match="not a manifest: stage: "):
        registry.resolve("sft@4")
    path = publish("sft").path
    (path / "manifest.json").write_bytes(b"[]")
    (path / "manifest.sha256").write_text(f"{hashlib.sha256(b'[]').hexdigest()}  manifest.json\n")
    with pytest.raises(RegistryError, match="manifest format None"):
        registry.resolve("sft@5")


def test_list_reports_the_unreadable(registry, publish):
    assert registry.list().artefacts == ()
    publish("sft")
    (publish("sft").path / "manifest.sha256").unlink()
    publish("reward")
    listing = registry.list()
    assert [artefact.reference for artefact in listing.artefacts] == ["reward@1", "sft@1"]
    assert len(listing.problems) == 1
    assert "sft@2" in listing.problems[0]
    assert [artefact.reference for artefact in registry.list("reward").artefacts] == ["reward@1"]


def test_find_returns_the_newest_with_these_inputs(registry, publish):
    assert registry.find("sft", "a") is None
    for inputs in ("a", "a", "b"):
        publish("sft", inputs=inputs)
    publish("reward", inputs="a")
    found = registry.find("sft", "a")
    assert found is not None
    assert found.reference == "sft@2"
    assert registry.find("sft", "c") is None


def test_alias_moves_and_goes(registry, publish):
    assert registry.aliases("sft") == {}
    publish("sft")
    publish("sft")
    registry.set_alias("sft", "best", 1)
    registry.set_alias("sft", "best", 2)
    registry.set_alias("sft", "old", 1)
    assert registry.aliases("sft") == {"best": 2, "old": 1}
    assert Registry(registry.root).resolve("sft@best").reference == "sft@2"
    registry.remove_alias("sft", "old")
    assert registry.aliases("sft") == {"best": 2}
    with pytest.raises(RegistryError, match="no such alias; there are: best"):
        registry.remove_alias("sft", "old")


@pytest.mark.parametrize("alias", ["latest", "Latest", "3", "007", "1_0", "", "a/b", ".x", "a@b"])
def test_alias_that_reads_as_a_version_is_refused(registry, publish, alias):
    publish("sft")
    with pytest.raises(RegistryError, match="cannot be an alias"):
        registry.set_alias("sft", alias, 1)


def test_alias_needs_its_version(registry, publish):
    publish("sft")
    with pytest.raises(RegistryError, match="versions: 1;"):
        registry.set_alias("sft", "best", 2)
    registry.set_alias("sft", "best", 1)
    (registry.root / "sft" / "aliases.json").write_text("{")
    with pytest.raises(RegistryError, match=r"aliases\.json does not hold aliases"):
        registry.resolve("sft@best")


def test_lineage_is_the_tree_of_parents(registry, publish):
    sft = publish("sft")
    reward = publish("reward", parents={"base": sft})
    publish("ppo", parents={"policy": sft, "reward": reward})
    root = registry.lineage("ppo")
    assert (root.reference, root.role, root.problems()) == ("ppo@1", None, [])
    assert [(node.role, node.reference) for node in root.parents] == [
        ("policy", "sft@1"),
        ("reward", "reward@1"),
    ]
    assert [(node.role, node.reference) for node in root.parents[1].parents] == [("base", "sft@1")]
    assert root.parents[0].parents == ()


def test_lineage_finds_a_forged_parent(registry, publish):
    sft = publish("sft")
    reward = publish("reward", parents={"base": sft})
    publish("ppo", parents={"policy": sft, "reward": reward})
    _rewrite_manifest(sft.path, metrics={"eval_loss": 0.1})
    assert registry.verify("sft@1") == []
    problems = registry.lineage("ppo").problems()
    assert len(problems) == 2
    assert problems[0].startswith("sft@1 is not the policy that ppo@1 was made from")
    assert problems[1].startswith("sft@1 is not the base that reward@1 was made from")
    assert sft.digest in problems[0]


def test_lineage_finds_a_missing_parent_and_a_loop(registry, publish):
    sft = publish("sft")
    child = publish("ppo", parents={"policy": sft})
    _rewrite_manifest(sft.path, parents=[{"role": "policy", "reference": "ppo@1", "digest": child.digest}])
    assert "ppo@1 is its own ancestor" in registry.lineage("ppo").problems()
    sft.path.rename(registry.root / "elsewhere")
    [problem] = registry.lineage("ppo").problems()
    assert problem.startswith("policy of ppo@1: sft@1: no artefact is named 'sft'")
