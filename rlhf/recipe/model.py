"""The base model: a hub id, a local folder, a registry reference, or an architecture to train from scratch."""

from typing import Any, Literal

from pydantic import Field, model_validator

from rlhf.recipe.base import Section

Quantize = Literal["nf4"]
"""4-bit NormalFloat, its scales quantised too (double quantisation)."""


class ScratchModel(Section):
    """An architecture with random weights, and a byte-level BPE tokenizer trained on the SFT data."""

    model_type: Literal["llama", "gpt2", "gpt_neox", "qwen2", "mistral"] = "llama"
    """The transformers architecture."""
    vocab_size: int = Field(2048, ge=300)
    """Size of the tokenizer that is trained, special tokens included."""
    hidden_size: int = Field(128, ge=8)
    """Width."""
    num_layers: int = Field(4, ge=1)
    """Depth."""
    num_heads: int = Field(4, ge=1)
    """Attention heads; must divide `hidden_size`."""
    intermediate_size: int | None = Field(None, ge=8)
    """Width of the feed-forward layer; 4 x hidden_size where left out."""
    max_positions: int = Field(512, ge=16)
    """Longest sequence, in tokens."""


class LoRA(Section):
    """Low-rank adapters (Hu et al. 2021) on one base in all three stages: reward and PPO go on from the SFT adapter."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: float = Field(32.0, gt=0)
    """Scale: the update is multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input; off in PPO, whatever it is here."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Which linear layers get an adapter."""
    quantize: Quantize | None = None
    """Hold the frozen base in 4 bits under adapters and heads in float32 (QLoRA: Dettmers et al. 2023); needs `.[qlora]`."""


class ModelSection(Section):
    """The model that the first stage starts from. A bare string in the recipe is its `path`."""

    path: str | None = None
    """A hub id (`owner/name`), a local folder, or `registry:NAME@VERSION`."""
    revision: str | None = None
    """The hub model's commit, branch or tag; pinned to a commit in the resolved recipe when the run first resolves it."""
    scratch: ScratchModel | None = None
    """Train this architecture from scratch instead of loading `path`."""
    lora: LoRA | None = None
    """Train adapters on a frozen base instead of all weights."""
    chat_template: str | None = None
    """A Jinja file that replaces the tokenizer's chat template."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository brings. Off unless you have read that code."""
    attn_implementation: str | None = None
    """Passed to transformers: `sdpa`, `eager`, `flash_attention_2`, …"""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value
