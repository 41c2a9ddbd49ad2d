"""One token a row from its logits: the distribution, what top-p and min-p leave of it, and the draw.

B rows, V vocabulary, cut into C blocks. The maths is float32, running sums of it float64.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.ppo.triton_there import takes_kernels

_BLOCK = 128
"""Tokens that PyTorch's operators sum first, before sums of sums."""
_KERNELS_BLOCK = 1024
"""The same in the Triton kernels, one program a block."""


class SamplingParams(NamedTuple):
    """How a distribution is sampled from; see `sample_tokens`.

    Attributes:
        temperature: of the softmax.
        top_p, min_p: see `support_of`.
    """

    temperature: float
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def cuts(self) -> bool:
        """Whether less than the whole vocabulary is sampled from."""
        return self.temperature > 0 and (self.top_p < 1 or self.min_p > 0)


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
        return Draw(tokens, logits.float().log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1), None)
    support = None
    if top_p < 1 or min_p > 0:
        logits = logits.float()
        support = support_of((logits / temperature).softmax(dim=-1), top_p=top_p, min_p=min_p)
        logits = logits.masked_fill(~support, -torch.inf)
    if takes_kernels(logits):
        from rlhf.ppo.engines.draw_kernels import inverse_cdf

        return Draw(*inverse_cdf(logits.contiguous(), noise, temperature, _KERNELS_BLOCK), support)
    return Draw(*_inverse_cdf(logits, noise, temperature), support)


def _inverse_cdf(logits: Tensor, noise: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The tokens [B] int64 at which the cumulative probability first exceeds the noise, and their log-probabilities [B].

    First the block, by the running sum of the blocks' weights, then the token in it: the vocabulary is read once, and
    never summed token by token. A token of probability 0 is never drawn: the noise is scaled to each running sum's own
    end. Logits that are not numbers give some token, and a log-probability that is not a number.
    """
    largest, sums = _block_sums(logits, temperature)
    highest = largest.amax(dim=-1, keepdim=True)
    weights = sums.double() * (largest - highest).double().exp()
    ends = weights.cumsum(dim=-1)
    target = noise.double()[:, None] * ends[:, -1:]
    block = _first_above(ends, target)
    weight = weights.gather(1, block)
    share = (target - (ends.gather(1, block) - weight)) / weight
    ids = block * _BLOCK + torch.arange(_BLOCK, device=logits.device)
    known = ids < logits.shape[-1]
    scaled = logits.gather(1, ids.clamp(max=logits.shape[-1] - 1)).float() / temperature - highest
    within = scaled.masked_fill(~known, -torch.inf).double().exp().cumsum(dim=-1)
    place = _first_above(within, share.clamp(0, 1 - 2**-52) * within[:, -1:])
    logprobs = scaled.gather(1, place).double() - ends[:, -1:].log()
    tokens = ids.gather(1, place).clamp(max=logits.shape[-1] - 1)
    return tokens.squeeze(1), logprobs.float().squeeze(1)


def _block_sums(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of C blocks of `_BLOCK` tokens, the last of them shorter: largest scaled logit, sum of exponentials relative to it.

    Returns:
        [B, C] float32 each; of a block of minus infinities, minus infinity and 0.
    """
    missing = -logits.shape[-1] % _BLOCK
    scaled = F.pad(logits.float() / temperature, (0, missing), value=-torch.inf).unflatten(-1, (-1, _BLOCK))
    largest = scaled.amax(dim=-1, keepdim=True)
    base = largest.masked_fill(largest == -torch.inf, 0.0)
    return largest.squeeze(-1), (scaled - base).exp().sum(dim=-1)


def _first_above(ends: Tensor, target: Tensor) -> Tensor:
    """[B, 1] int64: the first place whose running sum exceeds the target; rounding may not push it behind the end."""
    place = torch.searchsorted(ends, target, right=True)
    place = torch.minimum(place, torch.searchsorted(ends, ends[:, -1:].contiguous()))
    return place.clamp(max=ends.shape[-1] - 1)  # where nothing is a number


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
