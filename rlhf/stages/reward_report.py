"""How good a reward model is on pairs: accuracy with an interval, by margin, calibration, and what length explains."""

import hashlib
from collections.abc import Sequence

import numpy as np

from rlhf.stages.tokens.encoders import Pair

NUM_RESAMPLES = 2000
NUM_BINS = 10


def reward_report(
    rows: Sequence[Pair], chosen: Sequence[float], rejected: Sequence[float]
) -> dict[str, float]:
    """Measure scores on pairs.

    Args:
        rows: the pairs.
        chosen, rejected: their scores.

    Returns:
        accuracy (ties count half) with its 95% interval (percentile bootstrap over prompts, since pairs of one prompt
        are not independent), accuracy by tercile of the margin where all pairs have one, expected calibration error
        (Guo et al. 2017, 10 bins of the winner's probability), Pearson correlation of score and completion length,
        mean gap.
    """
    gap = np.asarray(chosen) - np.asarray(rejected)
    correct = np.where(gap > 0, 1.0, np.where(gap == 0, 0.5, 0.0))
    groups = _groups(rows)
    low, high = cluster_interval(correct, groups)
    report = {
        "accuracy": float(correct.mean()),
        "accuracy_ci_low": low,
        "accuracy_ci_high": high,
        "num_pairs": float(len(rows)),
        "num_prompts": float(len(set(groups.tolist()))),
        "calibration_error": calibration_error(gap),
        "score_length_correlation": _length_correlation(rows, chosen, rejected),
        "mean_gap": float(gap.mean()),
    }
    return report | _by_margin(rows, correct)


def cluster_interval(values: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean by resampling whole groups.

    Args:
        values: [N] float64.
        groups: [N] int64, from 0, which group each value belongs to.
        seed: of the resampling.
    """
    sums = np.bincount(groups, weights=values)
    counts = np.bincount(groups).astype(float)
    draws = np.random.default_rng(seed).integers(0, len(sums), size=(NUM_RESAMPLES, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def calibration_error(gap: np.ndarray) -> float:
    """Expected calibration error of P(chosen beats rejected) = sigmoid(gap), read as the predicted winner's probability."""
    confidence = 1.0 / (1.0 + np.exp(-np.abs(gap)))
    correct = np.where(gap > 0, 1.0, np.where(gap == 0, 0.5, 0.0))
    bins = np.minimum(((confidence - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
    error = 0.0
    for bin_index in range(NUM_BINS):
        inside = bins == bin_index
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return float(error)


def _groups(rows: Sequence[Pair]) -> np.ndarray:
    """Rows with the same prompt are one group; a pair without a marked prompt is a group of its own."""
    numbers: dict[bytes | int, int] = {}
    groups: list[int] = []
    for index, row in enumerate(rows):
        # a digest, since all prompts of a large split would fill the memory
        key = index if row.prompt_ids is None else _digest(row.prompt_ids)
        groups.append(numbers.setdefault(key, len(numbers)))
    return np.array(groups)


def _digest(ids: list[int]) -> bytes:
    return hashlib.blake2b(np.array(ids, dtype=np.int64).tobytes(), digest_size=16).digest()


def _length_correlation(rows: Sequence[Pair], chosen: Sequence[float], rejected: Sequence[float]) -> float:
    both = [
        (len(row.chosen_ids) - start, len(row.rejected_ids) - start)
        for row in rows
        for start in [len(row.prompt_ids or ())]
    ]
    lengths = [length for length, _ in both] + [length for _, length in both]
    scores = np.array([*chosen, *rejected])
    if np.std(lengths) == 0 or np.std(scores) == 0:
        return 0.0
    return float(np.corrcoef(lengths, scores)[0, 1])


def _by_margin(rows: Sequence[Pair], correct: np.ndarray) -> dict[str, float]:
    margins = [row.margin for row in rows]
    if any(margin is None for margin in margins) or len(rows) < 3:
        return {}
    order = np.argsort(np.array(margins, dtype=float), kind="stable")
    low, middle, high = np.array_split(correct[order], 3)
    return {
        "accuracy_small_margin": float(low.mean()),
        "accuracy_medium_margin": float(middle.mean()),
        "accuracy_large_margin": float(high.mean()),
    }
