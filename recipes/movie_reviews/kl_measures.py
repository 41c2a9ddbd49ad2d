"""When a run's KL has come to its target, and best-of-n film by film: what the study of KL control computes."""

from dataclasses import dataclass

import numpy as np
import torch

from rlhf.ppo.best_of_n import best_of_n_value

WINDOW = 20
"""Updates in the moving average of KL."""
BAND = 0.2
"""Share of the target by which the average may differ from it."""


@dataclass(frozen=True)
class Settling:
    """How the moving average of KL came to the target; updates count from 1, an average has the number of its last one.

    Attributes:
        entered: the first update whose average is within the band, None where none is; it may be on its way through.
        stays_from: the first update from which every average to the end is within the band, None where the last is not.
        worst: the largest |average / target - 1| from `stays_from` on, None where that is None.
    """

    entered: int | None
    stays_from: int | None
    worst: float | None


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of each `window` neighbours.

    Args:
        values: [T] float.
        window: 1 to T.

    Returns:
        [T - window + 1] float64; the first is that of values 1 to `window`.

    Raises:
        ValueError: fewer values than the window has.
    """
    if not 1 <= window <= len(values):
        raise ValueError(f"a window of {window} does not fit into {len(values)} values")
    return np.lib.stride_tricks.sliding_window_view(np.asarray(values, dtype=float), window).mean(axis=1)


def settling(kl: np.ndarray, target: float, *, window: int = WINDOW, band: float = BAND) -> Settling:
    """Judge a run's KL, one number an update, against the target.

    Args:
        kl: [T] float, nats a response.
        target: nats a response.
    """
    error = np.abs(moving_average(kl, window) / target - 1.0)
    inside = error <= band
    if not inside.any():
        return Settling(None, None, None)
    entered = int(inside.argmax()) + window
    if not inside[-1]:
        return Settling(entered, None, None)
    outside = np.flatnonzero(~inside)
    first = int(outside[-1]) + 1 if len(outside) else 0
    return Settling(entered, first + window, float(error[first:].max()))


def best_of_n_by_film(scores: np.ndarray, n: int) -> np.ndarray:
    """Expected highest score of n answers to each prompt, without bias, from N >= n.

    Args:
        scores: [F, N] float, of the SFT model's answers.

    Returns:
        [F] float64.

    Raises:
        ValueError: n is not from 1 to N.
    """
    films = torch.from_numpy(np.asarray(scores, dtype=float))[:, None, :]
    return np.array([best_of_n_value(film, film, n) for film in films])
