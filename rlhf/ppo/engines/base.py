"""What an engine is given and what it returns."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Generation:
    """Sampled responses.

    Attributes:
        response_ids: [B, T] int64, right-padded with 0.
        response_mask: [B, T] bool, True on sampled tokens, the stop token included.
        logprobs: [B, T] float32, the engine's own log-probabilities of the sampled tokens, 0 outside the mask.
    """

    response_ids: Tensor
    response_mask: Tensor
    logprobs: Tensor


class GenerationEngine(Protocol):
    """Samples responses from a policy; never reads the model's own generation_config."""

    def generate(
        self,
        policy: nn.Module,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        noise: Tensor,
        *,
        temperature: float,
        stop_ids: tuple[int, ...],
    ) -> Generation:
        """Sample one response a row.

        Args:
            policy: the causal LM to sample from.
            prompt_ids: [B, P] int64, left-padded.
            prompt_mask: [B, P] bool, True on real tokens.
            noise: [B, T] float32 in [0, 1); token t of a row is the inverse of the CDF at noise[row, t].
                T is the longest response.
            temperature: softmax temperature; 0 takes the likeliest token.
            stop_ids: tokens that end a response.
        """
        ...
