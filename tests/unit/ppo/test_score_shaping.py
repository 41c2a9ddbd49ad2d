"""Clip, then normalise, then the penalties: numbers by hand."""

import numpy as np
import pytest
import torch

from rlhf.errors import CheckpointError, UsageError
from rlhf.ppo.rewards import ScoreShaping
from rlhf.recipe.rewards import ShapingSection

SCORES = torch.tensor([5.0, -5.0, 1.5])
ENDED = torch.tensor([True, False, False])
LENGTHS = torch.tensor([2, 4, 7])


def shaped(section, **reference):
    return ScoreShaping(ShapingSection.model_validate(section), **reference)(SCORES, ENDED, LENGTHS).tolist()


def test_nothing_is_the_default():
    assert shaped({}) == [5.0, -5.0, 1.5]


def test_line_17_clip_then_normalise_then_subtract():
    section = {"clip": 2, "normalize": "reference", "missing_eos": "subtract", "missing_eos_penalty": 3}
    # 5 -> 2 -> (2 - 1) / 4; -5 -> -2 -> -3 / 4 -> -3.75; 1.5 -> 0.5 / 4 -> -2.875. Normalised first, 5 would give 1.
    assert shaped(section, reference_mean=1.0, reference_std=4.0) == [0.25, -3.75, -2.875]


def test_line_14_replace_is_the_penalty_alone():
    section = {"normalize": "reference", "missing_eos": "replace", "missing_eos_penalty": 3}
    assert shaped(section, reference_mean=1.0, reference_std=4.0) == [1.0, -3.0, -3.0]


@pytest.mark.parametrize(
    "stats", [{}, {"reference_mean": 1.0}, {"reference_mean": 1.0, "reference_std": 0.0}]
)
def test_line_17_normalising_without_statistics_is_refused(stats):
    with pytest.raises(UsageError, match="num_reference_samples"):
        ScoreShaping(ShapingSection(normalize="reference"), **stats)


def test_each_token_past_the_free_ones_costs_whatever_became_of_the_score():
    # 2, 4 and 7 tokens, of which 3 are free: 0, 1 and 4 cost 0.25 each, after the missing EOS has been replaced.
    section = {"length_penalty": 0.25, "length_free_tokens": 3, "missing_eos": "replace"}
    assert shaped(section) == [5.0, -1.25, -2.0]


def test_line_17_batch_moments_are_those_of_ended_responses_alone():
    shaping = ScoreShaping(ShapingSection(normalize="batch", missing_eos="subtract", missing_eos_penalty=3.0))
    scores, ended = torch.tensor([1.0, 5.0, 100.0]), torch.tensor([True, True, False])
    # mean 3, population's variance 4; (100 - 3) / 2 - 3
    assert shaping(scores, ended, LENGTHS).tolist() == pytest.approx([-1.0, 1.0, 45.5])
    assert shaping(scores + 7, ended, LENGTHS).tolist() == pytest.approx([-1.0, 1.0, 45.5]), "no memory"


@pytest.mark.parametrize("normalize", ["batch", "running"])
@pytest.mark.parametrize("ended", [[False, False, False], [False, True, False]])
def test_with_fewer_than_two_ended_responses_the_step_is_normalised_by_all_of_it(normalize, ended):
    shaping = ScoreShaping(ShapingSection(normalize=normalize))
    # mean 4, squared deviations 9, 0, 9: variance 6
    out = shaping(torch.tensor([1.0, 4.0, 7.0]), torch.tensor(ended), LENGTHS).tolist()
    assert out == pytest.approx([-3 / 6**0.5, 0.0, 3 / 6**0.5])


def test_running_moments_take_in_all_steps_so_far_this_one_included():
    shaping = ScoreShaping(ShapingSection(normalize="running"))
    shaping(torch.tensor([1.0, 3.0, 50.0]), torch.tensor([True, True, False]), LENGTHS)
    out = shaping(torch.tensor([8.0, -9.0]), torch.tensor([True, False]), LENGTHS[:2]).tolist()
    # 1, 3, 8: mean 4, squared deviations 9 + 1 + 16, variance 26 / 3
    assert out == pytest.approx([4 / (26 / 3) ** 0.5, -13 / (26 / 3) ** 0.5])


def test_running_moments_over_many_uneven_steps_are_those_of_all_their_scores():
    generator = np.random.default_rng(3)
    shaping, seen = ScoreShaping(ShapingSection(normalize="running", clip=30.0)), []
    for size in (1, 7, 2, 64, 5):
        scores = 1000 + generator.normal(size=size) * 20
        scores = np.where(generator.random(size) < 0.5, scores - 1000, scores)
        seen += np.clip(scores.astype(np.float32), -30, 30).tolist()
        out = shaping(torch.tensor(scores, dtype=torch.float32), torch.ones(size).bool(), torch.ones(size))
    expected = (np.array(seen[-5:]) - np.mean(seen)) / np.std(seen)
    assert out.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_equal_scores_become_zero():
    shaping = ScoreShaping(ShapingSection(normalize="batch"))
    assert shaping(torch.full((3,), 2.5), torch.ones(3).bool(), LENGTHS).tolist() == [0.0, 0.0, 0.0]


def test_running_moments_are_state_that_goes_on_where_it_stopped():
    whole = ScoreShaping(ShapingSection(normalize="running"))
    resumed = ScoreShaping(ShapingSection(normalize="running"))
    everything = torch.ones(3).bool()
    whole(SCORES, everything, LENGTHS)
    resumed.load_state_dict(whole.state_dict())
    later = torch.tensor([0.5, 9.0, -3.0])
    expected = whole(later, everything, LENGTHS).tolist()
    assert resumed(later, everything, LENGTHS).tolist() == expected
    assert ScoreShaping(whole.section)(later, everything, LENGTHS).tolist() != expected


@pytest.mark.parametrize("state", [{}, {"running": {"count": 1, "mean": 0.0}}])
def test_a_missing_piece_of_the_moments_is_an_error(state):
    with pytest.raises(CheckpointError, match="lack"):
        ScoreShaping(ShapingSection(normalize="running")).load_state_dict(state)
