"""Against every subset of the answers, and against numbers worked out by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

from rlhf.ppo.best_of_n import best_of_n_value, kl_of_best_of_n, n_of_kl

GENERATOR = np.random.default_rng(7)
SCORES = GENERATOR.normal(size=(3, 6))
GOLD = GENERATOR.normal(size=(3, 6))


def by_enumeration(scores, values, n):
    """The mean over all subsets of n answers of the value of the one that scores highest."""
    means = [
        np.mean([v[max(chosen, key=lambda i, s=s: s[i])] for chosen in itertools.combinations(range(6), n)])
        for s, v in zip(scores, values, strict=True)
    ]
    return float(np.mean(means))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("values", [SCORES, GOLD], ids=["proxy", "gold"])
def test_the_estimate_is_the_mean_over_all_subsets(n, values):
    estimate = best_of_n_value(torch.tensor(SCORES), torch.tensor(values), n)
    assert estimate == pytest.approx(by_enumeration(SCORES, values, n), abs=1e-12)


def test_four_answers_by_hand():
    """Pairs of 1, 2, 4, 8 have the maxima 2, 4, 8, 4, 8, 8: 34 / 6 in the mean; triples 4, 8, 8, 8."""
    scores = torch.tensor([[4.0, 1.0, 8.0, 2.0]])
    assert best_of_n_value(scores, scores, 2) == pytest.approx(34 / 6)
    assert best_of_n_value(scores, scores, 3) == pytest.approx(7.0)
    assert best_of_n_value(scores, scores, 2.25) == pytest.approx(0.75 * 34 / 6 + 0.25 * 7.0)


def test_many_answers_keep_their_weights_finite():
    scores = torch.arange(1.0, 1001.0)[None]
    # E[max of n of 1..N] without return = n (N + 1) / (n + 1).
    assert best_of_n_value(scores, scores, 9) == pytest.approx(900.9)


def test_more_answers_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="between 1 and the 6"):
        best_of_n_value(torch.tensor(SCORES), torch.tensor(SCORES), 7)


def test_the_kl_of_best_of_n():
    assert kl_of_best_of_n(1) == 0.0
    assert kl_of_best_of_n(2) == pytest.approx(math.log(2) - 0.5)
    assert kl_of_best_of_n(16) == pytest.approx(1.8350887222397811)


def test_n_is_found_from_the_kl_and_kept_in_range():
    assert n_of_kl(math.log(4) - 0.75, 64) == pytest.approx(4.0)
    assert n_of_kl(math.log(2.5) - 0.6, 64) == pytest.approx(2.5)
    assert n_of_kl(-0.3, 64) == n_of_kl(0.0, 64) == 1.0
    assert n_of_kl(50.0, 64) == 64.0
    assert n_of_kl(0.4, 1) == 1.0
