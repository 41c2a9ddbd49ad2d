"""Which gradient norms are spikes, against numbers by hand."""

import math

import pytest

from rlhf.ppo.spikes import GradientNorms


def filled(factor, norms):
    kept = GradientNorms(factor)
    for norm in norms:
        assert kept.spike({"policy": norm}) is None
    return kept


def test_a_norm_above_the_factor_times_the_median_is_a_spike_and_is_not_taken_in():
    kept = filled(3.0, [1, 2, 3, 4, 5, 6, 7, 8])  # the median is 4.5
    assert kept.spike({"policy": 13.5}) is None
    kept = filled(3.0, [1, 2, 3, 4, 5, 6, 7, 8])
    assert kept.spike({"policy": 13.6}) == (
        "gradient norm (policy) 13.6: above 3 times the median 4.5 of the last 8"
    )
    assert kept.state_dict() == {"policy": [1, 2, 3, 4, 5, 6, 7, 8]}


def test_fewer_than_eight_norms_say_nothing_about_a_finite_one():
    assert filled(2.0, [1] * 7).spike({"policy": 1e6}) is None


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_one_that_is_not_finite_is_always_a_spike(norm):
    assert GradientNorms(None).spike({"policy": 1.0, "critic": norm}) == (
        f"gradient norm (critic) {norm}: not finite"
    )
    assert filled(None, [1] * 20).spike({"policy": 1e9}) is None


def test_the_median_is_over_the_last_64_and_comes_back_from_the_state():
    kept = filled(None, [1000.0] * 64 + [1.0] * 64)
    again = GradientNorms(2.0)
    again.load_state_dict(kept.state_dict())
    assert again.spike({"policy": 2.1}) is not None
    assert again.spike({"critic": 2.1}) is None, "each role has its own"
