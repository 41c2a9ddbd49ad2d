"""Which evaluation is the best, and when evaluations stop a run."""

import math

import pytest

from rlhf.errors import CheckpointError, TrainingError, UsageError
from rlhf.ppo.selection import Selection
from rlhf.recipe.evaluation import EvaluationSection


def selection(**knobs):
    return Selection(EvaluationSection(**knobs))


def seen(score, kl=0.0):
    return {"eval/scores": score, "eval/kl": kl}


def observed(chosen, scores):
    return [chosen.observe(step, seen(score)) for step, score in enumerate(scores)]


def test_without_select_best_the_last_one_is_published_and_nothing_stops():
    last = selection()
    assert observed(last, [3.0, 1.0, 2.0]) == [False] * 3
    assert (last.published.step, last.published.metrics) == (2, seen(2.0))
    assert last.stop_reason is None


def test_the_highest_is_published_and_the_earliest_of_equals():
    best = selection(select_best="eval/scores")
    assert observed(best, [1.0, 2.0, 0.0, 2.0]) == [True, True, False, False]
    assert (best.published.step, best.published.metrics) == (1, seen(2.0))


def test_patience_counts_evaluations_without_a_higher_value():
    patient = selection(select_best="eval/scores", patience=2)
    observed(patient, [1.0, 0.0, 2.0, 2.0])
    assert patient.stop_reason is None
    patient.observe(4, seen(1.5))
    assert patient.stop_reason == "2 evaluations without a higher eval/scores"
    assert patient.published.step == 2


def test_over_the_kl_budget_it_stops_and_does_not_select():
    bounded = selection(select_best="eval/scores", kl_budget=4.0)
    assert bounded.observe(0, seen(1.0, kl=4.0))
    assert bounded.stop_reason is None
    assert not bounded.observe(1, seen(9.0, kl=4.5))
    assert bounded.stop_reason == "eval/kl is 4.5, above kl_budget=4"
    assert bounded.published.step == 0


def test_the_budget_works_without_selection():
    bounded = selection(kl_budget=4.0)
    bounded.observe(1, seen(9.0, kl=4.5))
    assert bounded.stop_reason is not None
    assert bounded.published.step == 1


def test_step_0_evaluated_again_after_a_restart_is_not_stale():
    patient = selection(select_best="eval/scores", patience=1)
    assert patient.observe(0, seen(1.0))
    assert patient.observe(0, seen(1.0))
    assert patient.stop_reason is None


def test_an_unknown_metric_names_those_that_there_are():
    with pytest.raises(UsageError, match=r"eval/score is not measured\n  One of: eval/scores, eval/kl\."):
        selection(select_best="eval/score").observe(0, seen(1.0))


def test_a_value_that_is_not_finite_cannot_select():
    with pytest.raises(TrainingError, match="step 3: eval/scores, which selects the checkpoint, is nan"):
        selection(select_best="eval/scores").observe(3, seen(math.nan))


def test_a_restored_selection_decides_as_the_whole_one():
    whole, first = (selection(select_best="eval/scores", patience=3) for _ in range(2))
    for step, score in enumerate([1.0, 3.0, 2.0]):
        whole.observe(step, seen(score))
        first.observe(step, seen(score))
    resumed = selection(select_best="eval/scores", patience=3)
    resumed.load_state_dict(first.state_dict())
    for step, score in enumerate([2.5, 2.9], start=3):
        assert whole.observe(step, seen(score)) == resumed.observe(step, seen(score))
    assert whole.stop_reason == resumed.stop_reason == "3 evaluations without a higher eval/scores"
    assert whole.state_dict() == resumed.state_dict()


def test_a_missing_piece_of_its_state_is_an_error():
    state = selection().state_dict()
    del state["num_stale"]
    with pytest.raises(CheckpointError, match="num_stale"):
        selection().load_state_dict(state)
