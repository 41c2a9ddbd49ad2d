"""What an engine is given and what it returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rlhf.errors import TrainingError
from rlhf.ppo.episodes import FinishReason


@dataclass(frozen=True)
class Generation:
    """Sampled responses.

    Attributes:
        response_ids: [B, T] int64, right-padded with 0.
        response_mask: [B, T] bool, True on sampled tokens, the stop token included.
        logprobs: [B, T] float32, the engine's own log-probabilities of the sampled tokens, 0 outside the mask.
        finish_reasons: [B] how each response ended; `eos` where a stop token also completes a stop text.
        support: for each row, for each of its tokens, the ids (int32, ascending) that it was sampled from; None
            where that is the whole vocabulary.
        needs_weights: whether `logprobs` come from another implementation than the trainer's, so that the update
            weighs each token by the ratio of the two (`rlhf.ppo.importance`).
    """

    response_ids: Tensor
    response_mask: Tensor
    logprobs: Tensor
    finish_reasons: list[FinishReason]
    support: list[list[np.ndarray]] | None = None
    needs_weights: bool = False


class GenerationEngine(Protocol):
    """Samples responses from a policy; never reads the model's own generation_config."""

    def generate(
        self,
        policy: nn.Module,
        prompts: Sequence[list[int]],
        noise: Tensor,
        *,
        temperature: float,
        stop_ids: tuple[int, ...],
        top_p: float = 1.0,
        min_p: float = 0.0,
    ) -> Generation:
        """Sample one response a prompt, as many at a time as the engine finds good.

        Args:
            policy: the causal LM to sample from; the result is on its device.
            prompts: [B] token ids of each, at least one; neighbours of like length cost least.
            noise: [B, T] float32 in [0, 1); token t of a row is the inverse of the CDF at noise[row, t].
                T is the longest response.
            temperature: softmax temperature; 0 takes the likeliest token, and then there is no support.
            stop_ids: tokens that end a response.
            top_p: sample from the likeliest tokens that make up this probability.
            min_p: sample only tokens at least this share as likely as the likeliest.
        """
        ...


def finish_reasons(by_token: Tensor, by_text: Tensor) -> list[FinishReason]:
    """What ended each response, from what was seen of it: [B] bool each; a stop token comes before a stop text."""
    return [
        "eos" if token else "stop" if text else "length"
        for token, text in zip(by_token.tolist(), by_text.tolist(), strict=True)
    ]


def require_numbers(logprobs: Tensor) -> None:
    """Raise TrainingError where log-probabilities of sampled tokens are not finite: such a policy says nothing."""
    if not bool(torch.isfinite(logprobs).all()):
        raise TrainingError(
            "the policy's logits are not numbers while it samples",
            "Its weights are damaged: go on from an earlier checkpoint with a lower ppo.learning_rate or max_grad_norm.",
        )
