"""From scores to advantages: rewards per token, generalised advantage estimation, whitening.

B responses, T tokens; every mask is True = keep and contiguous from column 0. Does not shape scores and
does not talk to other ranks: each of them holds the whole batch by now.
"""

import torch
from torch import Tensor

from rlhf.ppo.kl import KLEstimator, kl_estimate
from rlhf.ppo.masks import check_mask, keep

Moments = tuple[Tensor, Tensor, Tensor]


def token_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    response_mask: Tensor,
    *,
    kl_coef: float,
    kl_estimator: KLEstimator = "k1",
    penalties: Tensor | None = None,
) -> Tensor:
    """Spread a response's score and its KL penalty over its tokens (Ziegler et al. 2019, eq. 2.1).

    reward[t] = -kl_coef x KL[t] - penalties[t], plus the score at the last response token. TRL 1.12 adds it one
    past that token where there is room.

    Args:
        scores: [B] float, one a response, shaped.
        logprobs: [B, T] float, of the sampled tokens under the policy that sampled them.
        ref_logprobs: [B, T] float, of the same tokens under the reference.
        response_mask: [B, T] bool, the tokens that the policy produced, EOS included.
        kl_coef: weight of the KL; 0 where the KL is in the loss.
        kl_estimator: k1 or k3; k2 does not estimate the KL without bias.
        penalties: [B, T] float, further costs, subtracted as given.

    Returns:
        [B, T] float32, 0 outside the mask.

    Raises:
        ValueError: shapes, a hole in the mask, a response without a token, or k2.
    """
    check_mask(response_mask, logprobs=logprobs, ref_logprobs=ref_logprobs, penalties=penalties)
    if scores.shape != response_mask.shape[:1]:
        raise ValueError(f"scores has shape {list(scores.shape)}, expected [{response_mask.shape[0]}]")
    if kl_estimator not in ("k1", "k3"):
        raise ValueError(f"kl_estimator={kl_estimator!r} cannot be part of the reward: one of k1, k3")
    lengths = response_mask.sum(dim=1)
    if bool((lengths == 0).any()):
        rows = (lengths == 0).nonzero().flatten().tolist()
        raise ValueError(f"rows {rows[:8]} have no response token, so no place for their score")

    kl = kl_estimate(keep(logprobs, response_mask), keep(ref_logprobs, response_mask), kl_estimator)
    columns = torch.arange(response_mask.shape[1], device=response_mask.device)
    is_last = columns == (lengths - 1).unsqueeze(1)
    rewards = keep(scores.unsqueeze(1).expand_as(is_last), is_last) - kl_coef * kl
    return rewards if penalties is None else rewards - keep(penalties, response_mask)


def gae(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    *,
    gamma: float,
    lam: float,
    bootstrap_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimate each token's advantage and the critic's target (Schulman et al. 2016, eq. 11 and 16).

    delta[t] = reward[t] + gamma x value[t + 1] - value[t]; advantage[t] = delta[t] + gamma x lam x advantage[t + 1];
    return[t] = advantage[t] + value[t]. After the last token the advantage is 0 and the value that of
    `bootstrap_values`, so what a padded column holds cannot enter. Advantages are not whitened here, nor are the returns ever.

    Args:
        rewards: [B, T] float.
        values: [B, T] float; values[:, t] comes from the hidden state before response token t.
        response_mask: [B, T] bool.
        gamma: discount.
        lam: 1 gives Monte-Carlo returns minus values, 0 gives TD(0).
        bootstrap_values: [B] float, the value after a truncated row's last token, else 0; None: all are terminal.

    Returns:
        advantages, returns: [B, T] float32, 0 outside the mask; a row without a token is all 0.

    Raises:
        ValueError: shapes, or a hole in the mask.
    """
    check_mask(response_mask, rewards=rewards, values=values)
    batch_size, num_columns = response_mask.shape
    if bootstrap_values is not None and bootstrap_values.shape != response_mask.shape[:1]:
        raise ValueError(
            f"bootstrap_values has shape {list(bootstrap_values.shape)}, expected [{batch_size}]"
        )
    rewards, values = keep(rewards, response_mask), keep(values, response_mask)
    advantage = torch.zeros(batch_size, device=values.device)
    next_value = advantage if bootstrap_values is None else bootstrap_values.float()
    columns: list[Tensor] = []
    for t in reversed(range(num_columns)):
        kept = response_mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(kept, delta + gamma * lam * advantage, 0.0)
        next_value = torch.where(kept, values[:, t], next_value)
        columns.append(advantage)
    advantages = torch.stack(columns[::-1], dim=1)
    return advantages, advantages + values


def masked_moments(x: Tensor, mask: Tensor) -> Moments:
    """Summarise what the mask keeps, as `whiten` takes it.

    Args:
        x: [B, T] or [B] float.
        mask: bool, as x.

    Returns:
        count, mean, and m2 (the sum of squared deviations from the mean): 0-dim float32; all 0 where nothing is kept.

    Raises:
        ValueError: shapes, or a hole in the mask.
    """
    check_mask(mask, x=x)
    count = mask.sum().float()
    mean = keep(x, mask).sum() / count.clamp(min=1)
    m2 = keep(x.float() - mean, mask).square().sum()
    return count, mean, m2


def whiten(
    x: Tensor, mask: Tensor, *, shift_mean: bool = True, moments: Moments | None = None, eps: float = 1e-8
) -> Tensor:
    """Scale what the mask keeps to variance 1 and, with `shift_mean`, move it to mean 0.

    (x - mean) / sqrt(var + eps), var = m2 / count: the population's variance, as tf.nn.moments in OpenAI's
    lm-human-preferences; TRL's `masked_whiten` divides by count - 1 and fails on one token.

    Args:
        x: [B, T] or [B] float.
        mask: bool, as x.
        shift_mean: False adds the mean back, so that only the scale changes.
        moments: what to whiten by, from `masked_moments`; x's own where None.
        eps: added to the variance.

    Returns:
        float32, as x, 0 outside the mask.

    Raises:
        ValueError: shapes, or a hole in the mask.
    """
    check_mask(mask, x=x)
    count, mean, m2 = masked_moments(x, mask) if moments is None else moments
    whitened = (keep(x, mask) - mean) * torch.rsqrt(m2 / count.clamp(min=1) + eps)
    return keep(whitened if shift_mean else whitened + mean, mask)
