"""A registry in a temporary folder, and a function that publishes a small artefact into it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from registry_drafts import make_draft

from rlhf.registry import Artefact, Parent, Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def publish(registry: Registry) -> Callable[..., Artefact]:
    def publish_one(
        name: str, *, inputs: str = "inputs", parents: dict[str, Artefact] | None = None
    ) -> Artefact:
        staged = registry.staging(name)
        (staged / "weights").mkdir()
        (staged / "config.json").write_text('{"a": 1}')
        (staged / "weights" / "model.safetensors").write_bytes(b"abc")
        recorded = [
            Parent(role=role, reference=parent.reference, digest=parent.digest)
            for role, parent in (parents or {}).items()
        ]
        return registry.publish(staged, make_draft(name, inputs, recorded))

    return publish_one
