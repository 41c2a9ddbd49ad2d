"""Clip, then normalise, then the penalty: numbers by hand."""

import pytest
import torch

from rlhf.errors import UsageError
from rlhf.ppo.rewards import ScoreShaping
from rlhf.recipe.ppo import ShapingSection

SCORES = torch.tensor([5.0, -5.0, 1.5])
ENDED = torch.tensor([True, False, False])


def shaped(section, **reference):
    return ScoreShaping(ShapingSection.model_validate(section), **reference)(SCORES, ENDED).tolist()


def test_nothing_is_the_default():
    assert shaped({}) == [5.0, -5.0, 1.5]


def test_clip_then_normalise_then_subtract():
    section = {"clip": 2, "normalize": "reference", "missing_eos": "subtract", "missing_eos_penalty": 3}
    # 5 -> 2 -> (2 - 1) / 4; -5 -> -2 -> -3 / 4 -> -3.75; 1.5 -> 0.5 / 4 -> -2.875. Normalised first, 5 would give 1.
    assert shaped(section, reference_mean=1.0, reference_std=4.0) == [0.25, -3.75, -2.875]


def test_replace_is_the_penalty_alone():
    section = {"normalize": "reference", "missing_eos": "replace", "missing_eos_penalty": 3}
    assert shaped(section, reference_mean=1.0, reference_std=4.0) == [1.0, -3.0, -3.0]


@pytest.mark.parametrize(
    "stats", [{}, {"reference_mean": 1.0}, {"reference_mean": 1.0, "reference_std": 0.0}]
)
def test_normalising_without_statistics_is_refused(stats):
    with pytest.raises(UsageError, match="num_reference_samples"):
        ScoreShaping(ShapingSection(normalize="reference"), **stats)
