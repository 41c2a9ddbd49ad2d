"""One PPO step of a linear-softmax policy and a linear critic: float64 NumPy, no autograd, no padding, no batches.

Written from the papers: Ziegler et al. 2019 (rewards), Schulman et al. 2016 (advantages), Schulman et al. 2017
(policy loss), Schulman 2020 (estimators of the KL), Loshchilov and Hutter 2019 (AdamW); the clipped value loss is that
of OpenAI's lm-human-preferences.
A token's features are a fixed vector of everything before it; logits are features @ policy / temperature and the
value is features @ critic, so each gradient fits one line.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Settings:
    """All numbers of the step; each is chosen so that it changes the result."""

    temperature: float = 0.7
    kl_coef: float = 0.3
    kl_estimator: str = "k1"
    kl_place: str = "reward"
    score_clip: float = 1.5
    score_mean: float = 0.2
    score_std: float = 0.8
    missing_eos_penalty: float = 0.6
    gamma: float = 0.9
    lam: float = 0.95
    bootstrap_truncated: bool = False
    whiten: bool = True
    cliprange: float = 0.2
    cliprange_value: float = 0.15
    vf_coef: float = 0.4
    max_grad_norm: float = 0.2
    learning_rate: float = 0.06
    rate_share: float = 1.0
    adam_eps: float = 1e-5
    weight_decay: float = 0.1


@dataclass(frozen=True)
class Row:
    """One prompt with its response: token t is predicted from `features[t]`, and what would follow from `after`."""

    features: np.ndarray  # [T, F]
    after: np.ndarray  # [F]
    response: np.ndarray  # [T]
    score: float
    ended: bool


@dataclass(frozen=True)
class Targets:
    """What the step fixes before it updates, one array [T] a row."""

    old_logprobs: list[np.ndarray]
    ref_logprobs: list[np.ndarray]
    old_values: list[np.ndarray]
    advantages: list[np.ndarray]
    returns: list[np.ndarray]


def log_probabilities(policy, row, temperature):
    """[T, V]: of every token of the vocabulary before each response token."""
    logits = row.features @ policy / temperature
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def chosen(table, row):
    """[T]: the entries of the tokens that were sampled."""
    return table[np.arange(len(row.response)), row.response]


def shaped_score(row, settings):
    """Clip, then normalise, then take the penalty off a response that did not end."""
    score = min(max(row.score, -settings.score_clip), settings.score_clip)
    score = (score - settings.score_mean) / settings.score_std
    return score if row.ended else score - settings.missing_eos_penalty


def kl_of(logprob, ref_logprob, estimator):
    """The estimate of KL(policy || reference) from tokens that the policy sampled; r = reference / policy."""
    r = np.exp(ref_logprob) / np.exp(logprob)
    return {"k1": -np.log(r), "k2": np.log(r) ** 2 / 2, "k3": r - 1 - np.log(r)}[estimator]


def kl_slope(logprob, ref_logprob, estimator):
    """Its derivative by the policy's log-probability x, with log r = ref - x and so dr/dx = -r: for k2 and k3."""
    r = np.exp(ref_logprob) / np.exp(logprob)
    return {"k2": -np.log(r), "k3": 1 - r}[estimator]


def rewards_of(row, logprobs, ref_logprobs, settings):
    """[T]: the KL penalty at each token, unless it is part of the loss, and the score at the last one."""
    rewards = np.zeros(len(row.response))
    if settings.kl_place == "reward":
        rewards -= settings.kl_coef * kl_of(logprobs, ref_logprobs, settings.kl_estimator)
    rewards[-1] += shaped_score(row, settings)
    return rewards


def advantages_of(rewards, values, value_after, settings):
    """Generalised advantages of one response, summed forward from their definition (eq. 16), not by recursion."""
    after = np.append(values[1:], value_after)
    deltas = rewards + settings.gamma * after - values
    decay = settings.gamma * settings.lam
    return np.array([sum(decay**k * delta for k, delta in enumerate(deltas[t:])) for t in range(len(deltas))])


def targets_of(policy, reference, critic, rows, settings):
    """Rewards, advantages and returns of the whole step, with the weights that sampled."""
    old_logprobs, old_ref_logprobs, old_values, raw, returns = [], [], [], [], []
    for row in rows:
        logprobs = chosen(log_probabilities(policy, row, settings.temperature), row)
        ref_logprobs = chosen(log_probabilities(reference, row, settings.temperature), row)
        values = row.features @ critic
        goes_on = settings.bootstrap_truncated and not row.ended
        advantages = advantages_of(
            rewards_of(row, logprobs, ref_logprobs, settings),
            values,
            row.after @ critic if goes_on else 0.0,
            settings,
        )
        old_logprobs.append(logprobs)
        old_ref_logprobs.append(ref_logprobs)
        old_values.append(values)
        raw.append(advantages)
        returns.append(advantages + values)
    every = np.concatenate(raw)
    if settings.whiten:
        raw = [(advantages - every.mean()) / every.std() for advantages in raw]
    return Targets(old_logprobs, old_ref_logprobs, old_values, raw, returns)


def minibatch(policy, critic, rows, targets, chosen_rows, settings):
    """Gradients of both weights, and the sums of the statistics, each divided by the minibatch's tokens."""
    policy_gradient, critic_gradient = np.zeros_like(policy), np.zeros_like(critic)
    names = ("policy_loss", "value_loss", "approxkl", "clipfrac", "ratio", "entropy", "value_clipfrac")
    sums = dict.fromkeys(names, 0.0)
    num_tokens = 0
    for index in chosen_rows:
        row = rows[index]
        table = log_probabilities(policy, row, settings.temperature)
        logprobs, values = chosen(table, row), row.features @ critic
        probabilities = np.exp(table)
        sums["entropy"] -= (probabilities * table).sum()
        for t, features in enumerate(row.features):
            slope = policy_token(
                logprobs[t], targets.old_logprobs[index][t], targets.advantages[index][t], settings, sums
            )
            if settings.kl_place == "loss":
                ref_logprob = targets.ref_logprobs[index][t]
                slope += settings.kl_coef * kl_slope(logprobs[t], ref_logprob, settings.kl_estimator)
            towards = -probabilities[t]
            towards[row.response[t]] += 1.0
            policy_gradient += slope * np.outer(features, towards) / settings.temperature
            slope = value_token(
                values[t], targets.old_values[index][t], targets.returns[index][t], settings, sums
            )
            critic_gradient += settings.vf_coef * slope * features
            num_tokens += 1
    stats = {name: total / num_tokens for name, total in sums.items()}
    return policy_gradient / num_tokens, critic_gradient / num_tokens, stats


def policy_token(logprob, old, advantage, settings, sums):
    """d loss / d logprob at one token: -A x ratio, or 0 where clipping makes the loss flat."""
    ratio = np.exp(logprob - old)
    bounded = min(max(ratio, 1 - settings.cliprange), 1 + settings.cliprange)
    flat = -advantage * bounded > -advantage * ratio
    sums["policy_loss"] += max(-advantage * ratio, -advantage * bounded)
    sums["approxkl"] += 0.5 * (logprob - old) ** 2
    sums["ratio"] += ratio
    sums["clipfrac"] += flat
    return 0.0 if flat else -advantage * ratio


def value_token(value, old, target, settings, sums):
    """d loss / d value at one token: the error, or 0 where the clipped error is the larger one."""
    bounded = min(max(value, old - settings.cliprange_value), old + settings.cliprange_value)
    flat = (bounded - target) ** 2 > (value - target) ** 2
    sums["value_loss"] += 0.5 * max((value - target) ** 2, (bounded - target) ** 2)
    sums["value_clipfrac"] += flat
    return 0.0 if flat else value - target


class AdamW:
    """Adam with bias correction; the decay shrinks the weight directly."""

    def __init__(self, shape, settings):
        self.settings = settings
        self.first, self.second, self.count = np.zeros(shape), np.zeros(shape), 0

    def step(self, weight, gradient):
        """The weight after one step."""
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean = self.first / (1 - 0.9**self.count)
        root = np.sqrt(self.second / (1 - 0.999**self.count))
        rate = self.settings.learning_rate * self.settings.rate_share
        shrunk = weight * (1 - rate * self.settings.weight_decay)
        return shrunk - rate * mean / (root + self.settings.adam_eps)


def whole_step(policy, reference, critic, rows, minibatches, settings):
    """Run the minibatches in the order given: the new weights, and the mean of each statistic over the updates."""
    targets = targets_of(policy, reference, critic, rows, settings)
    policy_adam, critic_adam = AdamW(policy.shape, settings), AdamW(critic.shape, settings)
    history = []
    for chosen_rows in minibatches:
        policy_gradient, critic_gradient, stats = minibatch(
            policy, critic, rows, targets, chosen_rows, settings
        )
        norm = np.sqrt((policy_gradient**2).sum() + (critic_gradient**2).sum())
        shrink = min(1.0, settings.max_grad_norm / norm)
        policy = policy_adam.step(policy, shrink * policy_gradient)
        critic = critic_adam.step(critic, shrink * critic_gradient)
        history.append(stats | {"grad_norm": norm})
    means = {name: float(np.mean([stats[name] for stats in history])) for name in history[0]}
    return policy, critic, means, [stats["grad_norm"] for stats in history]
