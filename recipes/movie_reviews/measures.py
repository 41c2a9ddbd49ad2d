"""What the judge measures on two models' answers, each with a 95% interval over films."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhf.ppo.measures import distinct_n

NUM_RESAMPLES = 2000

TITLES = {
    "sft_score": "SFT: mean score",
    "ppo_score": "PPO: mean score",
    "gain_in_sft_std": "gain, in standard deviations of SFT's scores",
    "kl": "KL from SFT, nats a response",
    "distinct_2_ratio": "distinct-2, PPO / SFT",
    "length_ratio": "mean length, PPO / SFT",
    "vader_gain": "VADER compound, PPO - SFT",
    "sft_without_eos": "SFT: share without EOS",
    "ppo_without_eos": "PPO: share without EOS",
}

Films = np.ndarray
"""[K] int64: which films count; one that is there twice counts twice."""


@dataclass(frozen=True)
class Answers:
    """One model's answers to F prompts, S each.

    Attributes:
        score, kl, length, unfinished, compound: [F, S] float64; KL from the SFT model is k1, summed over the response.
        token_ids: [F][S] the responses.
    """

    score: np.ndarray
    kl: np.ndarray
    length: np.ndarray
    unfinished: np.ndarray
    compound: np.ndarray
    token_ids: list[list[list[int]]]


@dataclass(frozen=True)
class Estimate:
    """A measure with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def compare(sft: Answers, ppo: Answers, *, seed: int) -> dict[str, Estimate]:
    """Every measure of `TITLES`; both models are resampled together, film by film.

    Intervals are percentiles of a bootstrap by film (Efron 1979), distinct-2's a jackknife: a film drawn twice would
    repeat all of its bigrams, and variety would look lower in every resample.
    """
    num_films = len(sft.score)
    draws = np.random.default_rng(seed).integers(0, num_films, size=(NUM_RESAMPLES, num_films))
    means: dict[str, Callable[[Films], float]] = {
        "sft_score": lambda films: sft.score[films].mean(),
        "ppo_score": lambda films: ppo.score[films].mean(),
        "gain_in_sft_std": lambda films: (
            (ppo.score[films].mean() - sft.score[films].mean()) / sft.score[films].std()
        ),
        "kl": lambda films: ppo.kl[films].mean(),
        "length_ratio": lambda films: ppo.length[films].mean() / sft.length[films].mean(),
        "vader_gain": lambda films: ppo.compound[films].mean() - sft.compound[films].mean(),
        "sft_without_eos": lambda films: sft.unfinished[films].mean(),
        "ppo_without_eos": lambda films: ppo.unfinished[films].mean(),
    }
    found = {name: bootstrapped(measure, draws) for name, measure in means.items()}
    found["distinct_2_ratio"] = jackknifed(
        lambda films: _distinct_2(ppo, films) / _distinct_2(sft, films), num_films
    )
    return {name: found[name] for name in TITLES}


def bootstrapped(measure: Callable[[Films], float], draws: np.ndarray) -> Estimate:
    """The measure on all films, and the middle 95% of its values on resamples.

    Args:
        draws: [R, F] int64, the films of each resample.
    """
    low, high = np.quantile([measure(films) for films in draws], (0.025, 0.975))
    return Estimate(float(measure(np.arange(draws.shape[1]))), float(low), float(high))


def jackknifed(measure: Callable[[Films], float], num_films: int) -> Estimate:
    """The measure on all films, plus and minus 1.96 standard errors from leaving out one film at a time."""
    films = np.arange(num_films)
    without = np.array([measure(np.delete(films, left_out)) for left_out in films])
    error = np.sqrt((num_films - 1) / num_films * ((without - without.mean()) ** 2).sum())
    value = float(measure(films))
    return Estimate(value, value - 1.96 * float(error), value + 1.96 * float(error))


def _distinct_2(answers: Answers, films: Films) -> float:
    return distinct_n([response for film in films for response in answers.token_ids[film]], 2)
