"""The reward model's report on numbers small enough for pencil and paper."""

import math

import numpy as np
import pytest

from rlhf.stages.reward_report import calibration_error, cluster_interval, reward_report
from rlhf.stages.tokens.encoders import Pair


def pair(prompt, num_chosen, num_rejected, margin=None):
    return Pair([prompt], [prompt] + [3] * num_chosen, [prompt] + [4] * num_rejected, margin, 1.0)


def test_accuracy_and_gap_by_hand():
    rows = [pair(1, 2, 1), pair(1, 1, 2), pair(2, 3, 3), pair(3, 1, 1)]
    report = reward_report(rows, [1.0, 0.5, 2.0, 0.0], [0.0, 1.5, -1.0, 0.0])
    # right, wrong, right, tie
    assert report["accuracy"] == pytest.approx(2.5 / 4)
    assert report["mean_gap"] == pytest.approx((1 - 1 + 3 + 0) / 4)
    assert (report["num_pairs"], report["num_prompts"]) == (4, 3)
    assert "accuracy_small_margin" not in report


def test_accuracy_by_margin_thirds():
    rows = [pair(n, 1, 2, margin=m) for n, m in enumerate([5.0, 0.1, 3.0, 0.2, 9.0, 2.0])]
    # by margin: 0.1 and 0.2 (wrong, wrong), 2 and 3 (right, wrong), 5 and 9 (right, right)
    gaps = {5.0: 1, 0.1: -1, 3.0: -1, 0.2: -1, 9.0: 1, 2.0: 1}
    report = reward_report(rows, [gaps[row.margin] for row in rows], [0.0] * 6)
    shares = [report[f"accuracy_{size}_margin"] for size in ("small", "medium", "large")]
    assert shares == [0.0, 0.5, 1.0]


def test_correlation_of_score_and_completion_length():
    rows = [pair(1, 1, 2), pair(2, 3, 4)]
    assert reward_report(rows, [1.0, 3.0], [2.0, 4.0])["score_length_correlation"] == pytest.approx(1.0)
    assert reward_report(rows, [4.0, 2.0], [3.0, 1.0])["score_length_correlation"] == pytest.approx(-1.0)
    assert reward_report(rows, [1.0, 1.0], [1.0, 1.0])["score_length_correlation"] == 0.0


def gap_of(confidence):
    return math.log(confidence / (1 - confidence))


def test_calibration_error_by_hand():
    """Ten pairs at 0.8, of which 8 right: none. The same of which 5 right: 0.3. Half of each, in two bins: weighted."""
    right, wrong = gap_of(0.801), -gap_of(0.801)
    assert calibration_error(np.array([right] * 8 + [wrong] * 2)) == pytest.approx(0.001, abs=1e-9)
    assert calibration_error(np.array([right] * 5 + [wrong] * 5)) == pytest.approx(0.301, abs=1e-9)
    sure = gap_of(0.97)
    mixed = np.array([right] * 5 + [wrong] * 5 + [sure] * 10)
    assert calibration_error(mixed) == pytest.approx(0.5 * 0.301 + 0.5 * 0.03, abs=1e-9)
    # a tie is half right, and says 0.5: calibrated
    assert calibration_error(np.array([0.0, 0.0])) == 0.0


def test_the_interval_of_independent_values_is_the_normal_one():
    rng = np.random.default_rng(3)
    values = (rng.random(900) < 0.7).astype(float)
    low, high = cluster_interval(values, np.arange(900))
    half = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / 900)
    assert low == pytest.approx(values.mean() - half, abs=0.005)
    assert high == pytest.approx(values.mean() + half, abs=0.005)


def test_the_interval_counts_prompts_not_pairs():
    """100 copies of 9 values: as wide as that of the 9 values, ten times that of 900 independent ones."""
    values = np.array([1.0, 0, 1, 1, 0, 1, 1, 0, 1])
    copies, groups = np.repeat(values, 100), np.repeat(np.arange(9), 100)
    clustered, alone = cluster_interval(copies, groups), cluster_interval(values, np.arange(9))
    assert clustered == alone
    naive = cluster_interval(copies, np.arange(900))
    assert clustered[1] - clustered[0] > 5 * (naive[1] - naive[0])


def test_pairs_of_one_prompt_are_one_group_in_the_report():
    grouped = [pair(n // 50, 1, 1) for n in range(400)]
    chosen = [1.0 if n // 50 % 2 else -1.0 for n in range(400)]
    wide = reward_report(grouped, chosen, [0.0] * 400)
    apart = [Pair(None, row.chosen_ids, row.rejected_ids, None, 1.0) for row in grouped]
    narrow = reward_report(apart, chosen, [0.0] * 400)
    assert wide["num_prompts"] == 8
    assert narrow["num_prompts"] == 400
    width = [report["accuracy_ci_high"] - report["accuracy_ci_low"] for report in (wide, narrow)]
    assert width[0] > 3 * width[1]
