"""Settings of `ppo.sampling.engine: vllm`."""

from typing import Literal

from pydantic import Field

from rlhf.recipe.base import Section


class VLLMSection(Section):
    """How vLLM samples; only beside `engine: vllm`."""

    mode: Literal["colocate", "server"] = "colocate"
    """`colocate`: an engine in every process, on its GPU. `server`: one `vllm serve` on GPUs of its own, which all processes ask through the first."""
    server_url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Where the server listens, such as `http://host:8000`; for `mode: server`."""
    gpu_memory_utilization: float = Field(default=0.3, gt=0, le=1)
    """Share of the GPU's memory that a colocated engine takes for its weights and its cache; training has the rest."""
    sleep: bool = False
    """Let a colocated engine give its memory back during the update; its weights are sent anew at each rollout."""
    max_importance_weight: float = Field(default=2.0, ge=1)
    """Largest importance weight of a token: the trainer's probability over vLLM's is truncated there (Yao et al. 2025)."""
