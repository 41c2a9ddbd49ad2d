"""The judge's measures, on answers small enough to work out by hand."""

from typing import Any

import numpy as np
import pytest
from recipe_scripts import load_script

judge = load_script("movie_reviews/measures.py")


def answers(score: list[list[float]], token_ids: list[list[list[int]]], *, shift: float = 0.0) -> Any:
    length = np.array([[len(ids) for ids in film] for film in token_ids], dtype=float)
    zeros = np.zeros_like(length)
    return judge.Answers(
        score=np.array(score),
        kl=zeros + 2.0 * shift,
        length=length,
        unfinished=zeros + 0.25 * shift,
        compound=zeros + 0.5 * shift,
        token_ids=token_ids,
    )


SFT = answers([[1.0, 3.0], [1.0, 3.0]], [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [1, 2, 3]]])
PPO = answers([[4.0, 4.0], [4.0, 4.0]], [[[1, 2], [1, 2]], [[1, 2, 3, 4], [1, 2, 3, 4]]], shift=1.0)


def test_values_are_those_worked_out_by_hand() -> None:
    found = {name: estimate.value for name, estimate in judge.compare(SFT, PPO, seed=0).items()}
    assert list(found) == list(judge.TITLES)
    assert found == pytest.approx(
        {
            "sft_score": 2.0,
            "ppo_score": 4.0,
            "gain_in_sft_std": 2.0,  # (4 - 2) / 1
            "kl": 2.0,
            "distinct_2_ratio": (3 / 8) / (6 / 8),  # 12 23 34 of eight; 12 23 45 56 78 89 of eight
            "length_ratio": 1.0,
            "vader_gain": 0.5,
            "sft_without_eos": 0.0,
            "ppo_without_eos": 0.25,
        }
    )


def test_films_that_are_alike_leave_no_uncertainty_and_the_call_repeats_itself() -> None:
    first, again = judge.compare(SFT, PPO, seed=0), judge.compare(SFT, PPO, seed=0)
    assert first == again
    assert (first["gain_in_sft_std"].low, first["gain_in_sft_std"].high) == pytest.approx((2.0, 2.0))
    assert first["length_ratio"].low < 1.0 < first["length_ratio"].high


def test_bootstrap_resamples_films_not_answers() -> None:
    """Two films at 0 and 1: a resample's mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4."""
    values = np.array([0.0, 1.0])
    draws = np.random.default_rng(1).integers(0, 2, size=(2000, 2))
    estimate = judge.bootstrapped(lambda films: float(values[films].mean()), draws)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.0, 1.0)


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    """Of 1, 2, 3, 6: mean 3, sample variance 14/3, standard error sqrt(14/12)."""
    values = np.array([1.0, 2.0, 3.0, 6.0])
    estimate = judge.jackknifed(lambda films: float(values[films].mean()), 4)
    margin = 1.96 * (14 / 12) ** 0.5
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((3.0, 3.0 - margin, 3.0 + margin))
