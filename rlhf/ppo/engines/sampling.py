"""One token a row from its logits: the distribution, what top-p and min-p leave of it, and the draw.

B rows, V vocabulary. The maths is float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """One sampled token a row.

    Attributes:
        tokens: [B] int64.
        logprobs: [B] float32, under the distribution that was sampled from (at temperature 1 where it is 0).
        support: [B, V] bool, True on the tokens that could be drawn; None: the whole vocabulary.
    """

    tokens: Tensor
    logprobs: Tensor
    support: Tensor | None


def sample_tokens(
    logits: Tensor, noise: Tensor, temperature: float, *, top_p: float = 1.0, min_p: float = 0.0
) -> Draw:
    """Draw by the inverse of the cumulative distribution, so that one number decides one token.

    Args:
        logits: [B, V], any float dtype.
        noise: [B] float32 in [0, 1).
        temperature: softmax temperature; 0 takes the likeliest token, whatever top_p and min_p.
        top_p: see `support_of`; 1 cuts nothing.
        min_p: see `support_of`; 0 cuts nothing.
    """
    logits = logits.float()
    if temperature == 0:
        tokens = logits.argmax(dim=-1)
        return Draw(tokens, _logprobs(logits, tokens), None)
    logits = logits / temperature
    probabilities, support = logits.softmax(dim=-1), None
    if top_p < 1 or min_p > 0:
        support = support_of(probabilities, top_p=top_p, min_p=min_p)
        logits = logits.masked_fill(~support, -torch.inf)
        probabilities = logits.softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    # Rounding leaves the last entry near 1, not at it: scaling keeps noise close to 1 inside the vocabulary.
    threshold = (noise[:, None] * cumulative[:, -1:]).contiguous()
    tokens = torch.searchsorted(cumulative, threshold, right=True).clamp(max=logits.shape[-1] - 1)
    if support is not None:
        # CUDA sums in parallel, where a sum can fall by rounding: no draw may land between two supported tokens.
        likeliest = probabilities.argmax(dim=-1, keepdim=True)
        tokens = torch.where(support.gather(1, tokens), tokens, likeliest)
    tokens = tokens.squeeze(1)
    return Draw(tokens, _logprobs(logits, tokens), support)


def support_of(probabilities: Tensor, *, top_p: float, min_p: float) -> Tensor:
    """Which tokens may be sampled: those that both rules keep; the likeliest one always is.

    top-p (Holtzman et al. 2020, eq. 2): the fewest likeliest tokens whose probabilities sum to at least top_p; of
    equally likely ones the lower ids. min-p (Nguyen et al. 2024): those at least min_p times as likely as the
    likeliest.

    Args:
        probabilities: [B, V] float32, at the sampling temperature.
        top_p: in (0, 1].
        min_p: in [0, 1).

    Returns:
        [B, V] bool.
    """
    support = probabilities >= min_p * probabilities.amax(dim=-1, keepdim=True)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        kept = before < top_p
        support &= torch.zeros_like(kept).scatter(1, order, kept)
    return support


def _logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1)
