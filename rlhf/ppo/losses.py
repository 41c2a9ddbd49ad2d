"""The losses of PPO, and the log-probabilities that they are taken over.

B responses, T tokens, H hidden size, V vocabulary; every mask is True = keep and contiguous from column 0.
A loss is a sum over the kept tokens divided by `num_tokens`: with the global count there, the losses (and
gradients, and stats) of any split into micro-batches add up to those of the whole. Does not weigh losses against
each other and does not scale for the number of ranks.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf.models.forward import places_of
from rlhf.ppo.masks import check_mask, keep
from rlhf.ppo.triton_there import takes_kernels

Head = Tensor | Callable[[Tensor], Tensor]


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    cliprange: float,
    num_tokens: float | Tensor | None = None,
    weights: Tensor | None = None,
    dual_clip: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the clipped surrogate, negated to be minimised (Schulman et al. 2017, eq. 7).

    max(-A x ratio, -A x clip(ratio, 1 - cliprange, 1 + cliprange)) at each token; with `dual_clip`, where A < 0,
    at most -A x dual_clip (Ye et al. 2020, eq. 5).

    Args:
        logprobs: [B, T] float, of the sampled tokens, with gradient.
        old_logprobs: [B, T] float, under the policy before this step's updates.
        advantages: [B, T] float, constant.
        response_mask: [B, T] bool; rows without a token contribute nothing.
        cliprange: of the ratio, around 1.
        num_tokens: divisor, usually the tokens of the global minibatch; the kept ones where None.
        weights: [B, T] float, constant, times each token's loss (sampler against trainer); the divisor stays.
        dual_clip: above 1; None: off.

    Returns:
        loss: 0-dim float32.
        stats: 0-dim float32 without gradient. Sums divided as the loss, which add up over micro-batches: `clipfrac`
            (tokens at which the clipped branch won), `approxkl` (half the squared log ratio, as OpenAI's and TRL's),
            `ratio`, `abs_log_ratio`. And `ratio_max`, which merges by its maximum.

    Raises:
        ValueError: shapes, a hole in the mask, or a dual_clip that is not above 1.
    """
    check_mask(
        response_mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, weights=weights
    )
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip={dual_clip} must be above 1")
    log_ratio = keep(logprobs, response_mask) - keep(old_logprobs, response_mask)
    advantages = keep(advantages, response_mask)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    losses = torch.maximum(unclipped, clipped)
    if dual_clip is not None:
        losses = torch.where(advantages < 0, torch.minimum(losses, -advantages * dual_clip), losses)
    if weights is not None:
        losses = losses * keep(weights, response_mask)

    divisor = _divisor(response_mask, num_tokens)
    with torch.no_grad():
        stats = {
            "clipfrac": (clipped > unclipped).sum() / divisor,
            "approxkl": 0.5 * log_ratio.square().sum() / divisor,
            "ratio": keep(ratio, response_mask).sum() / divisor,
            "abs_log_ratio": log_ratio.abs().sum() / divisor,
            "ratio_max": keep(ratio, response_mask).amax(),
        }
    return losses.sum() / divisor, stats


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    *,
    cliprange_value: float | None,
    num_tokens: float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute half the squared error of the critic, clipped around its old values.

    0.5 x max((v - R)^2, (clip(v, old - c, old + c) - R)^2) at each token, as in OpenAI's lm-human-preferences
    (`train_policy.py`); no paper has it.

    Args:
        values: [B, T] float, with gradient.
        old_values: [B, T] float, of the critic before this step's updates.
        returns: [B, T] float, constant.
        response_mask: [B, T] bool; rows without a token contribute nothing.
        cliprange_value: c, in units of the reward; None: no clipping.
        num_tokens: divisor, usually the tokens of the global minibatch; the kept ones where None.

    Returns:
        loss: 0-dim float32.
        stats: 0-dim float32 without gradient, divided as the loss, so that they add up over micro-batches: `clipfrac`
            (tokens at which the clipped branch won), `error` (the squared error, unclipped), `mean` (of the values).

    Raises:
        ValueError: shapes, or a hole in the mask.
    """
    check_mask(response_mask, values=values, old_values=old_values, returns=returns)
    values, returns = keep(values, response_mask), keep(returns, response_mask)
    errors = (values - returns).square()
    clipped_errors = errors
    if cliprange_value is not None:
        old_values = keep(old_values, response_mask)
        clipped = values.clamp(old_values - cliprange_value, old_values + cliprange_value)
        clipped_errors = (clipped - returns).square()

    divisor = _divisor(response_mask, num_tokens)
    with torch.no_grad():
        stats = {
            "clipfrac": (clipped_errors > errors).sum() / divisor,
            "error": errors.sum() / divisor,
            "mean": values.sum() / divisor,
        }
    return 0.5 * torch.maximum(errors, clipped_errors).sum() / divisor, stats


def token_logprobs(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    *,
    temperature: float,
    mask: Tensor,
    chunk_tokens: int,
    support: Tensor | None = None,
    num_kept: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the log-probability of each target and the entropy there, a few tokens' logits at a time.

    Logits of a whole batch are the largest tensor of PPO (B x T x V). Here only kept tokens get any, `chunk_tokens`
    of them at once, and the backward pass computes them anew (not where all fit one chunk).

    Args:
        hidden: [B, T, H] or [N, H], the states from which the targets are predicted, with gradient.
        head: the weight [V, H], or a module that maps [n, H] to [n, V]; gets its gradient.
        targets: [B, T] or [N] int64.
        temperature: divides the logits.
        mask: bool, as targets; what hidden and targets hold outside it is never read.
        chunk_tokens: most tokens whose logits exist at once.
        support: [B, T, K] or [N, K] int64, the tokens that each target was sampled from, -1 where there are fewer:
            the distribution is renormalised over them. None: the whole vocabulary.
        num_kept: tokens that the mask keeps, from one who knows; None: the device is asked, and waited for.

    Returns:
        logprobs, entropy (nats): float32, as targets, 0 outside the mask; both with gradient.

    Raises:
        ValueError: shapes, a hole in the mask, a temperature or chunk that is not positive, a target outside its
            support, or (on a CPU) another num_kept than the mask's.
    """
    check_mask(mask, targets=targets)
    if hidden.shape[:-1] != mask.shape:
        raise ValueError(f"hidden has shape {list(hidden.shape)}, expected {list(mask.shape)} + [H]")
    if temperature <= 0 or chunk_tokens < 1:
        raise ValueError(f"temperature={temperature} must be > 0 and chunk_tokens={chunk_tokens} >= 1")
    index = places_of(mask, num_kept)
    states = hidden.flatten(0, -2).index_select(0, index)
    inputs = [states, targets.flatten().index_select(0, index)]
    if support is not None:
        inputs.append(_kept_support(support, targets, mask).index_select(0, index))

    def chunk(states: Tensor, labels: Tensor, support: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits = F.linear(states, head) if isinstance(head, Tensor) else head(states)
        return _at_labels(logits, labels, temperature, support)

    # A batch without a kept token still passes one empty chunk: DDP waits for the head's gradient on every rank.
    pieces = list(zip(*(tensor.split(chunk_tokens) for tensor in inputs), strict=True))
    if len(pieces) == 1 or not torch.is_grad_enabled():
        results = [chunk(*piece) for piece in pieces]
    else:
        with _autocast_without_cache(hidden.device.type):
            results = [
                checkpoint(chunk, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces
            ]
    logprobs, entropy = (torch.cat(parts) for parts in zip(*results, strict=True))
    blank = torch.zeros(mask.numel(), device=hidden.device)
    return (
        blank.index_copy(0, index, logprobs).view(mask.shape),
        blank.index_copy(0, index, entropy).view(mask.shape),
    )


def _kept_support(support: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """The support flattened to [N, K]; a target outside it would have a log-probability of minus infinity."""
    if support.shape[:-1] != mask.shape:
        raise ValueError(f"support has shape {list(support.shape)}, expected {list(mask.shape)} + [K]")
    if not bool(((support == targets.unsqueeze(-1)).any(dim=-1) | ~mask).all()):
        raise ValueError("a target is not in the support that it was sampled from")
    return support.flatten(0, -2)


def _at_labels(
    logits: Tensor, labels: Tensor, temperature: float, support: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [n] under the softmax of logits [n, V], over the support [n, K] alone if given."""
    if support is None and takes_kernels(logits):
        from rlhf.ppo.kernels import LogprobsAtLabels

        return LogprobsAtLabels.apply(logits, labels, temperature)
    if support is None:
        log_softmax = torch.log_softmax(logits.float() / temperature, dim=-1)
        entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)
        return log_softmax.gather(-1, labels.unsqueeze(-1)).squeeze(-1), entropy
    missing = support < 0
    logits = logits.gather(-1, support.clamp(min=0)).float() / temperature
    log_softmax = torch.log_softmax(logits.masked_fill(missing, -torch.inf), dim=-1)
    # 0 x -inf is NaN, in the entropy and in its gradient: places that are not there get 0 x 0.
    entropy = -(log_softmax.exp() * log_softmax.masked_fill(missing, 0.0)).sum(dim=-1)
    place = (support == labels.unsqueeze(-1)).int().argmax(dim=-1, keepdim=True)
    return log_softmax.gather(-1, place).squeeze(-1), entropy


def _divisor(response_mask: Tensor, num_tokens: float | Tensor | None) -> float | Tensor:
    return response_mask.sum().clamp(min=1) if num_tokens is None else num_tokens


def _autocast_without_cache(device_type: str) -> torch.autocast:
    """Keep autocast as it is, but cast the head anew for each chunk.

    Else the chunks share one bfloat16 copy and sum their gradients in bfloat16, where small terms vanish
    beside the sum; with a copy each, the sum is the float32 weight's.
    """
    return torch.autocast(
        device_type,
        dtype=torch.get_autocast_dtype(device_type),
        enabled=torch.is_autocast_enabled(device_type),
        cache_enabled=False,
    )
