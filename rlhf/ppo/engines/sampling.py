"""One token a row from its logits: the distribution, what top-p and min-p leave of it, and the draw.

B rows, V vocabulary, cut into C blocks of K tokens. The maths is float32, running sums of it float64.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_BLOCK = 1024
_PADDED_BLOCK = 512


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
    if temperature == 0:
        tokens = logits.argmax(dim=-1)
        return Draw(tokens, _logprobs(logits.float(), tokens), None)
    if temperature != 1:
        logits = logits.float() / temperature
    probabilities = logits.softmax(dim=-1, dtype=torch.float32)
    if top_p == 1 and min_p == 0:
        return Draw(*_inverse_cdf(probabilities, noise), None)
    support = support_of(probabilities, top_p=top_p, min_p=min_p)
    tokens, _ = _inverse_cdf(probabilities.masked_fill(~support, 0.0), noise)
    # CUDA sums in parallel, where a sum can fall by rounding: no draw may land between two supported tokens.
    tokens = torch.where(support.gather(1, tokens[:, None]).squeeze(1), tokens, probabilities.argmax(dim=-1))
    return Draw(tokens, _logprobs(logits.float().masked_fill(~support, -torch.inf), tokens), support)


def _inverse_cdf(probabilities: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens [B] int64 at which the cumulative probability first exceeds the noise, and their log-probabilities [B].

    First the block, by the running sum of the blocks' probabilities, then the token in it: the vocabulary is read once,
    and never summed token by token. A token of probability 0 is never drawn: the noise is scaled to each running sum's
    own end. Probabilities that are not numbers give some token, and a log-probability that is not a number.
    """
    size = _block_size(probabilities.shape[-1])
    missing = -probabilities.shape[-1] % size
    padded = F.pad(probabilities, (0, missing)) if missing else probabilities
    blocks = padded.unflatten(-1, (-1, size))
    sums = blocks.sum(dim=-1).double()
    ends = sums.cumsum(dim=-1)
    target = noise.double()[:, None] * ends[:, -1:]
    block = _first_above(ends, target)
    weight = sums.gather(1, block)
    share = (target - (ends.gather(1, block) - weight)) / weight
    within = blocks.gather(1, block[..., None].expand(-1, -1, size)).squeeze(1).double().cumsum(dim=-1)
    place = _first_above(within, share.clamp(0, 1 - 2**-52) * within[:, -1:])
    tokens = (block * size + place).clamp(max=probabilities.shape[-1] - 1)
    logprobs = probabilities.gather(1, tokens).double().log() - ends[:, -1:].log()
    return tokens.squeeze(1), logprobs.float().squeeze(1)


def _first_above(ends: Tensor, target: Tensor) -> Tensor:
    """[B, 1] int64: the first place whose running sum exceeds the target; rounding may not push it behind the end."""
    place = torch.searchsorted(ends, target, right=True)
    place = torch.minimum(place, torch.searchsorted(ends, ends[:, -1:].contiguous()))
    return place.clamp(max=ends.shape[-1] - 1)  # where nothing is a number


def _block_size(num_tokens: int) -> int:
    """A power of two that divides the vocabulary, so that nothing is copied to pad it; a vocabulary with none is padded."""
    if num_tokens <= _LARGEST_BLOCK:
        return num_tokens
    divisor = min(num_tokens & -num_tokens, _LARGEST_BLOCK)
    return divisor if divisor >= 64 else _PADDED_BLOCK


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
