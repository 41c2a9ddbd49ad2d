"""The model registry: immutable, verified, traceable artefacts. Imports no torch; concepts in docs/registry.md."""

from rlhf.registry.artefact import MANIFEST, Artefact
from rlhf.registry.collect import Removed
from rlhf.registry.lineage import LineageNode
from rlhf.registry.manifest import Base, FileEntry, Manifest, ManifestDraft, Parent, Probe, RewardStats
from rlhf.registry.references import REGISTRY_PREFIX
from rlhf.registry.store import Listing, Registry

__all__ = [
    "MANIFEST",
    "REGISTRY_PREFIX",
    "Artefact",
    "Base",
    "FileEntry",
    "LineageNode",
    "Listing",
    "Manifest",
    "ManifestDraft",
    "Parent",
    "Probe",
    "Registry",
    "Removed",
    "RewardStats",
]
