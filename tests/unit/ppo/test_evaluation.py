"""The evaluator on networks of a few thousand weights."""

import numpy as np
import pytest
from tiny_ppo import PROMPTS, TinyPPO, section_of, tiny_lm

from rlhf.errors import CheckpointError
from rlhf.ppo.evaluation import Evaluator
from rlhf.ppo.noise import EVALUATION_STREAM
from rlhf.ppo.scoring import Score

HELD_OUT = PROMPTS[:4]


class LengthJudge:
    """A gold judge that likes long answers."""

    def score(self, answers):
        return [Score(float(len(answer.response_ids))) for answer in answers]


class ProxyItself:
    """A gold judge that says what the proxy says."""

    def __init__(self, scorer):
        self.scorer = scorer

    def score(self, answers):
        return self.scorer.score(answers)


def evaluator_of(tiny, *, reference_seed=5, gold=None):
    return Evaluator(
        tiny.section,
        accelerator=tiny.accelerator,
        collector=tiny.collector,
        reference=tiny_lm(seed=reference_seed),
        prompts=HELD_OUT,
        gold=gold,
    )


def tiny_with(**evaluation):
    return TinyPPO(section_of(evaluation={"samples_per_prompt": 3} | evaluation))


def test_the_sft_model_itself_gains_nothing():
    tiny = tiny_with()
    tiny.collector.reference = tiny_lm(seed=0)
    metrics = evaluator_of(tiny, reference_seed=0).evaluate(tiny.model).metrics
    assert metrics["eval/win_rate"] == 0.5
    for name in ("eval/gain", "eval/gain_length_controlled", "eval/kl", "eval/kl_sqrt"):
        assert metrics[name] == pytest.approx(0.0, abs=1e-5), name


def test_sampled_greedy_and_sft_answers_are_measured_apart():
    tiny = tiny_with()
    evaluation = evaluator_of(tiny).evaluate(tiny.model)
    batch = [(prompt, sample) for prompt in HELD_OUT for sample in range(3)]
    sft = tiny_with()
    sft.model.policy = tiny_lm(seed=5)
    policy, before = (
        t.collector.collect(t.model, batch, 0, stream=EVALUATION_STREAM, temperature=0.7) for t in (tiny, sft)
    )
    greedy = tiny.collector.collect(
        tiny.model, [(prompt, 0) for prompt in HELD_OUT], 0, stream=EVALUATION_STREAM, temperature=0.0
    )
    metrics, baseline = evaluation.metrics, evaluation.baseline
    score, sft_score = policy.scores.double().numpy(), before.scores.double().numpy()
    assert metrics["eval/scores"] == pytest.approx(score.mean())
    assert metrics["eval/greedy_scores"] == pytest.approx(float(greedy.scores.mean()))
    assert baseline.metrics["eval/sft_scores"] == pytest.approx(sft_score.mean())
    assert set(baseline.metrics) == {
        f"eval/sft_{name}"
        for name in (
            *("scores", "scores_std", "scores/model", "kl", "kl_sqrt", "entropy", "response_tokens"),
            *("share_without_eos", "distinct_1", "distinct_2"),
        )
    }
    difference = (score - sft_score) / sft_score.std()
    longer = policy.response_mask.sum(1).numpy() - before.response_mask.sum(1).numpy()
    assert metrics["eval/gain"] == pytest.approx(difference.mean())
    assert metrics["eval/gain_length_controlled"] == pytest.approx(np.polyfit(longer, difference, 1)[1])
    assert metrics["eval/win_rate"] == pytest.approx((score > sft_score).mean())
    assert 0 < metrics["eval/win_rate"] < 1


def test_the_gold_judge_scores_each_response_and_is_not_the_proxy():
    tiny = tiny_with()
    evaluation = evaluator_of(tiny, gold=LengthJudge()).evaluate(tiny.model)
    assert evaluation.gold.tolist() == [len(e.response_ids) for e in evaluation.sampled.episodes]
    assert evaluation.metrics["eval/gold_scores"] == evaluation.metrics["eval/response_tokens"]
    sft = evaluation.baseline.metrics
    assert sft["eval/sft_gold_scores"] == pytest.approx(sft["eval/sft_response_tokens"])


def test_more_answers_for_best_of_n_leave_the_other_numbers_as_they_are():
    plain, many = (tiny_with(best_of_n=n) for n in (0, 8))
    before = evaluator_of(plain).evaluate(plain.model)
    after = evaluator_of(many).evaluate(many.model)
    assert after.baseline.scores.shape == (4, 8)
    assert after.baseline.response_ids == before.baseline.response_ids
    assert after.baseline.metrics == pytest.approx(before.baseline.metrics, rel=1e-5, abs=1e-6)
    shared = {name: after.metrics[name] for name in before.metrics}
    assert shared == pytest.approx(before.metrics, rel=1e-4, abs=1e-5)
    assert set(after.metrics) - set(shared) == {"eval/best_of_n", "eval/best_of_n_scores"}


def test_best_of_n_at_a_large_kl_is_the_best_answer_of_each_prompt():
    tiny = tiny_with(best_of_n=5)
    evaluation = evaluator_of(tiny, gold=ProxyItself(tiny.collector.scorer)).evaluate(tiny.model)
    assert evaluation.metrics["eval/kl"] > 1.0
    assert evaluation.metrics["eval/best_of_n"] == 5.0
    best = float(evaluation.baseline.scores.max(dim=1).values.mean())
    assert evaluation.metrics["eval/best_of_n_scores"] == pytest.approx(best)
    assert evaluation.metrics["eval/best_of_n_gold_scores"] == pytest.approx(best, rel=1e-5)


def test_best_of_n_at_no_kl_is_the_mean_answer():
    tiny = tiny_with(best_of_n=5)
    tiny.collector.reference = tiny.policy
    evaluation = evaluator_of(tiny).evaluate(tiny.model)
    assert evaluation.metrics["eval/best_of_n_scores"] == pytest.approx(
        float(evaluation.baseline.scores.mean()), abs=1e-2
    )


def test_a_restored_evaluator_keeps_the_sft_answers_that_it_had():
    tiny = tiny_with(best_of_n=4)
    first = evaluator_of(tiny, gold=LengthJudge())
    before = first.evaluate(tiny.model)
    other = evaluator_of(tiny, reference_seed=9, gold=LengthJudge())
    other.load_state_dict(first.state_dict())
    assert other.evaluate(tiny.model).metrics == before.metrics


def test_a_state_without_the_sft_answers_is_an_error():
    tiny = tiny_with()
    with pytest.raises(CheckpointError, match="response_ids"):
        evaluator_of(tiny).load_state_dict({})
