"""What `manifest.json` says of a published artefact: where it comes from, what decided its reuse, and each file's hash."""

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from rlhf.registry.references import ALIAS_OR_NAME, REGISTRY_PREFIX, VERSION

FORMAT_VERSION = 1
"""Raised when a manifest's meaning changes; an artefact of another format is refused, not guessed at."""

Stage = Literal["sft", "reward", "ppo"]
Kind = Literal["causal_lm", "reward_model"]
Name = Annotated[str, Field(pattern=f"^{ALIAS_OR_NAME}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


class Parent(_Part):
    """An artefact that this one was made from."""

    role: str
    """What it was here: `policy`, `reference`, `reward`, `base`, …"""
    reference: str = Field(pattern=f"^{ALIAS_OR_NAME}@{VERSION}$")
    """Exact: `name@3`, never an alias."""
    digest: Sha256
    """The parent's artefact digest when it was used."""


class Base(_Part):
    """The frozen model under a LoRA adapter."""

    path: str
    """Hub id, local folder or `registry:name@3`."""
    revision: str | None
    """The hub commit."""
    digest: str
    """Digest of the base's weights."""
    quantization: Literal["nf4"] | None = None
    """How the base was held while the adapter trained on it and was measured; None: as its files have it."""


class RewardStats(_Part):
    """Scores of a reward model on samples of the SFT model: what `normalize: reference` subtracts and divides by."""

    mean: float
    std: float = Field(ge=0)
    num_samples: int = Field(ge=1)


class Probe(_Part):
    """Fixed sequences and the scores a reward model gave them when saved: a loaded head must repeat them."""

    token_ids: list[list[int]]
    scores: list[float]
    """One for each sequence."""
    tolerance: float = Field(ge=0)
    """Largest absolute difference that still counts as the same score."""

    @model_validator(mode="after")
    def _one_score_each(self) -> Self:
        if len(self.token_ids) != len(self.scores):
            raise ValueError(f"{len(self.token_ids)} sequences but {len(self.scores)} scores")
        return self


class FileEntry(_Part):
    """One file of the artefact."""

    sha256: Sha256
    size: int = Field(ge=0)
    """Bytes."""


class ManifestDraft(_Part):
    """What the publishing stage knows; the registry adds version, time and files."""

    name: Name
    """The artefact's name."""
    stage: Stage
    """The stage that made it."""
    kind: Kind
    """How it loads."""
    parents: list[Parent] = Field(default_factory=list[Parent])
    """What it was made from."""
    data: dict[str, str] = Field(default_factory=dict)
    """Split -> sha256 of the records."""
    recipe_digest: str
    """Digest of the resolved recipe."""
    inputs_digest: str
    """Digest of all that decides the result; an artefact with the same one is reused."""
    tokenizer_digest: str
    """Digest of the tokenizer's files."""
    chat_template_digest: str | None = None
    """Digest of the chat template, where there is one."""
    base: Base | None = None
    """For LoRA: what the adapter sits on."""
    code_version: str
    """Version of this package that made it."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Package -> version."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Held-out metrics of what was published."""
    reward_stats: RewardStats | None = None
    """Reward models: the scores' mean and spread on the SFT model's samples."""
    probe: Probe | None = None
    """Reward models: the scores that prove a loaded head."""

    @model_validator(mode="after")
    def _base_is_a_parent(self) -> Self:
        """A base in the registry must be among the parents, since lineage and gc follow those alone."""
        if self.base is not None and self.base.path.startswith(REGISTRY_PREFIX):
            reference = self.base.path.removeprefix(REGISTRY_PREFIX)
            if reference not in {parent.reference for parent in self.parents}:
                raise ValueError(f"the base {reference} lies in the registry: name it among the parents too")
        return self


class Manifest(ManifestDraft):
    """A draft as published."""

    format_version: int
    """Format of this file."""
    version: int = Field(ge=1)
    """The artefact's version under its name."""
    created: AwareDatetime
    """When it was published, UTC."""
    files: dict[str, FileEntry]
    """Path inside the artefact -> hash and size; all files but the manifest and its seal."""
