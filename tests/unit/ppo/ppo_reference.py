"""The equations of PPO for responses in float64 NumPy, row by row and token by token, straight from the papers.

A row is a plain array of its own length: there is no padding and no mask here, so nothing can leak through one.
"""

import math

import numpy as np


def rows_of(tensor, mask):
    """Cut a padded batch into its rows, in float64."""
    lengths = mask.sum(dim=1).tolist()
    return [
        np.array(row[:n].tolist(), dtype=np.float64) for row, n in zip(tensor.detach(), lengths, strict=True)
    ]


def padded(rows, width):
    """Lay rows out again, zeros on the right."""
    return np.array([list(row) + [0.0] * (width - len(row)) for row in rows], dtype=np.float64)


def kl_token(logprob, ref_logprob, kind):
    """Schulman's note: r = q(x) / p(x), with x sampled from p."""
    r = math.exp(ref_logprob) / math.exp(logprob)
    return {"k1": -math.log(r), "k2": math.log(r) ** 2 / 2, "k3": (r - 1) - math.log(r)}[kind]


def token_rewards(scores, logprobs, ref_logprobs, kl_coef, kind):
    """Ziegler et al. 2019: R = score - beta log(pi / rho), the score on the last token."""
    rows = []
    for score, logps, refs in zip(scores, logprobs, ref_logprobs, strict=True):
        row = [-kl_coef * kl_token(p, q, kind) for p, q in zip(logps, refs, strict=True)]
        row[-1] += score
        rows.append(np.array(row))
    return rows


def gae(rewards, values, gamma, lam, bootstrap):
    """Schulman et al. 2016, eq. 16: the sum over l of (gamma lam)^l delta[t + l], written out as a sum."""
    advantages = []
    for reward, value, last in zip(rewards, values, bootstrap, strict=True):
        following = [*value[1:], last]
        deltas = [r + gamma * n - v for r, n, v in zip(reward, following, value, strict=True)]
        n = len(deltas)
        advantages.append(
            np.array([sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)])
        )
    returns = [a + v for a, v in zip(advantages, values, strict=True)]
    return advantages, returns


def policy_loss(logprobs, old_logprobs, advantages, cliprange, weights=None, dual_clip=None):
    """Schulman et al. 2017, eq. 7, as an objective to maximise; Ye et al. 2020, eq. 5; the sign turned at the end."""
    total, count = 0.0, 0
    for i, (new, old, advs) in enumerate(zip(logprobs, old_logprobs, advantages, strict=True)):
        for t in range(len(new)):
            ratio = math.exp(new[t] - old[t])
            objective = min(ratio * advs[t], min(max(ratio, 1 - cliprange), 1 + cliprange) * advs[t])
            if dual_clip is not None and advs[t] < 0:
                objective = max(objective, dual_clip * advs[t])
            total += objective * (1.0 if weights is None else weights[i][t])
            count += 1
    return -total / count


def value_loss(values, old_values, returns, cliprange_value):
    """OpenAI lm-human-preferences: 0.5 x mean of max((v - R)^2, (v_clipped - R)^2)."""
    terms = []
    for new, old, rets in zip(values, old_values, returns, strict=True):
        for v, o, r in zip(new, old, rets, strict=True):
            term = (v - r) ** 2
            if cliprange_value is not None:
                term = max(term, (min(max(v, o - cliprange_value), o + cliprange_value) - r) ** 2)
            terms.append(term)
    return 0.5 * sum(terms) / len(terms)


def token_logprob(state, weight, target, temperature):
    """Log-softmax of one token and its entropy."""
    logits = [float(np.dot(row, state)) / temperature for row in weight]
    top = max(logits)
    norm = top + math.log(sum(math.exp(x - top) for x in logits))
    entropy = -sum(math.exp(x - norm) * (x - norm) for x in logits)
    return logits[target] - norm, entropy


def numeric_gradient(function, rows, step=1e-6):
    """Central differences of a scalar function of rows."""
    gradient = [np.zeros_like(row) for row in rows]
    for i, row in enumerate(rows):
        for t in range(len(row)):
            centre = row[t]
            row[t] = centre + step
            up = function(rows)
            row[t] = centre - step
            gradient[i][t] = (up - function(rows)) / (2 * step)
            row[t] = centre
    return gradient
