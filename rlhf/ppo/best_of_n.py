"""Best of n: the SFT model answers n times and the reward model chooses. The baseline that PPO has to beat at equal KL."""

import math

import torch
from torch import Tensor


def kl_of_best_of_n(n: float) -> float:
    """KL from the SFT model of choosing the best of its n answers: log n - (n - 1) / n, in nats a response.

    Exact where scores have no ties, else an upper bound (Stiennon et al. 2020, appendix G.3; Beirami et al. 2024).

    Args:
        n: at least 1, not necessarily whole.
    """
    return math.log(n) - (n - 1) / n


def n_of_kl(kl: float, largest: int) -> float:
    """The n whose best-of-n has this KL, between 1 (for a KL of 0 or less) and `largest`; by bisection, since KL(n) rises."""
    if kl <= 0:
        return 1.0
    if kl >= kl_of_best_of_n(largest):
        return float(largest)
    low, high = 1.0, float(largest)
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if kl_of_best_of_n(middle) < kl else (low, middle)
    return (low + high) / 2


def best_of_n_value(scores: Tensor, values: Tensor, n: float) -> float:
    """The mean over prompts of the value of that of n answers which scores highest.

    Without bias from N >= n answers a prompt: of all C(N, n) ways to take n of them, the one of rank i (from 1, the
    lowest) is the highest of the n in C(i - 1, n - 1), so the estimate is sum over i of
    C(i - 1, n - 1) / C(N, n) x value(i). Between two whole numbers it is the line between their estimates.

    Args:
        scores: [prompts, N] float, what chooses.
        values: [prompts, N] float, what is wanted of the choice: the scores themselves, or a gold judge's.
        n: from 1 to N.

    Raises:
        ValueError: n is outside this range.
    """
    num_answers = scores.shape[1]
    if not 1 <= n <= num_answers:
        raise ValueError(f"n={n} is not between 1 and the {num_answers} answers a prompt")
    order = scores.double().argsort(dim=1, stable=True)
    ranked = values.double().gather(1, order).mean(dim=0)
    below = math.floor(n)
    share = n - below
    value = float(ranked @ _rank_weights(num_answers, below))
    if share == 0.0:
        return value
    return (1 - share) * value + share * float(ranked @ _rank_weights(num_answers, below + 1))


def _rank_weights(num_answers: int, n: int) -> Tensor:
    """[N] float64: the probability that the answer of each rank is the highest of n drawn without return."""
    ways = math.comb(num_answers, n)
    chances = [math.comb(rank, n - 1) / ways for rank in range(num_answers)]
    return torch.tensor(chances, dtype=torch.float64)
