"""Numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from rlhf.ppo.episodes import Episode, collate
from rlhf.ppo.measures import distinct_n, engine_log_ratio_abs, evaluation_metrics, paired_metrics


def episode(
    index, response_ids, logprobs, ref_logprobs, score, finish_reason="eos", scores=None, engine_logprobs=None
):
    def row(values):
        return np.array(values, dtype=np.float32)

    return Episode(
        index=index,
        prompt_id=index,
        sample_index=0,
        prompt_ids=[1],
        response_ids=response_ids,
        logprobs=row(logprobs),
        ref_logprobs=row(ref_logprobs),
        values=row([0.0] * len(response_ids)),
        engine_logprobs=row(logprobs if engine_logprobs is None else engine_logprobs),
        score=score,
        finish_reason=finish_reason,
        scores=scores or {},
    )


def test_line_25_an_evaluation_counts_each_response_once_and_each_token_once():
    rollout = collate(
        [
            episode(0, [5, 6, 5, 6], [-1.0, -2.0, -1.0, -2.0], [-2.0, -3.0, -2.0, -3.0], 1.0, "length"),
            episode(1, [7], [-0.5], [-0.5], 3.0),
        ]
    )
    measured = evaluation_metrics(rollout)
    assert measured == {
        "eval/scores": 2.0,
        "eval/scores_std": 1.0,
        "eval/kl": pytest.approx(2.0),
        "eval/kl_sqrt": pytest.approx(math.sqrt(2.0)),
        "eval/entropy": pytest.approx(6.5 / 5),
        "eval/response_tokens": 2.5,
        "eval/share_without_eos": 0.5,
        "eval/distinct_1": 3 / 5,
        "eval/distinct_2": 2 / 3,
    }


def test_the_engines_log_ratio_is_a_mean_over_tokens_not_over_responses():
    apart = episode(0, [5, 6, 7], [-1.0, -2.0, -3.0], [0.0] * 3, 0.0, engine_logprobs=[-1.5, -1.0, -3.0])
    alike = episode(1, [7], [-0.5], [0.0], 0.0)
    assert engine_log_ratio_abs(collate([apart, alike])) == pytest.approx(1.5 / 4)


def test_a_negative_estimate_of_the_kl_has_the_root_0():
    measured = evaluation_metrics(collate([episode(0, [5], [-2.0], [-1.0], 0.0)]))
    assert measured["eval/kl"] == -1.0
    assert measured["eval/kl_sqrt"] == 0.0


def test_every_source_has_its_own_mean():
    first = {"helpful": 1.0, "short": -2.0, "disagreement": 0.5}
    second = {"helpful": 4.0, "short": 0.0, "disagreement": 1.5}
    measured = evaluation_metrics(
        collate(
            [
                episode(0, [5], [-1.0], [-1.0], 0.0, scores=first),
                episode(1, [5], [-1.0], [-1.0], 0.0, scores=second),
            ]
        )
    )
    assert measured["eval/scores/helpful"] == 2.5
    assert measured["eval/scores/short"] == -1.0
    assert measured["eval/score_disagreement"] == 1.0


def paired(difference, longer, *, sft=(0.0, 2.0, 0.0, 2.0), same=(False,) * 4):
    sft_scores, sft_lengths = torch.tensor(sft), torch.tensor([10, 10, 10, 10])
    return paired_metrics(
        sft_scores + torch.tensor(difference),
        sft_lengths + torch.tensor(longer),
        sft_scores,
        sft_lengths,
        torch.tensor(same),
    )


def test_the_length_controlled_gain_is_the_lines_value_at_equal_length():
    """The SFT scores have the standard deviation 1, and d = 0.5 + 0.25 l exactly."""
    measured = paired([0.5, 1.0, 1.5, 0.0], [0, 2, 4, -2])
    assert measured["eval/gain"] == pytest.approx(0.75)
    assert measured["eval/gain_length_controlled"] == pytest.approx(0.5)


def test_a_gain_that_length_alone_explains_vanishes_at_equal_length():
    assert paired([2.0, 4.0, 6.0, 8.0], [1, 2, 3, 4])["eval/gain_length_controlled"] == pytest.approx(0.0)


def test_the_gain_is_in_standard_deviations_of_the_sft_scores():
    measured = paired([3.0, 3.0, 3.0, 3.0], [0, 0, 0, 0], sft=(0.0, 6.0, 0.0, 6.0))
    assert measured["eval/gain"] == pytest.approx(1.0)


def test_where_lengths_or_sft_scores_do_not_vary_the_gain_is_the_plain_difference():
    measured = paired([1.0, 2.0, 3.0, 6.0], [5, 5, 5, 5], sft=(1.0,) * 4)
    assert measured["eval/gain"] == measured["eval/gain_length_controlled"] == pytest.approx(3.0)


def test_ties_and_equal_responses_count_half():
    assert paired([0.5, 1.0, 0.0, -1.0], [0, 0, 0, 0])["eval/win_rate"] == pytest.approx(2.5 / 4)
    same = (True, False, False, True)
    assert paired([1e-7, 1.0, 0.0, -1e-7], [0] * 4, same=same)["eval/win_rate"] == pytest.approx(2.5 / 4)


def test_n_grams_do_not_cross_responses():
    assert distinct_n([[1, 2], [2, 1], [1, 2]], 2) == 2 / 3
    assert distinct_n([[1], [2]], 2) == 0.0
