"""Scores, pair rules, grouping: expected pairs are worked out by hand."""

import sqlite3
import tracemalloc

import pytest

from rlhf.data.convert import Candidate, convert_rows
from rlhf.data.place import Place, Row
from rlhf.data.shapes.groups import PromptGroups
from rlhf.data.shapes.pairs import Outcome, Pair, make_pairs
from rlhf.data.shapes.scores import mean_rating, read_score
from rlhf.errors import DataError
from rlhf.recipe.data import DataSource


def answer(prompt: object, response: object, score: object) -> dict[str, object]:
    return {"prompt": prompt, "response": response, "score": score}


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (3, 3.0),
        (-0.5, -0.5),
        ("4", 4.0),
        (" 1e2 ", 100.0),
        (True, 1.0),
        (False, 0.0),
        ("True", 1.0),
        ("bad", 0.0),
        *[("Chosen", 1.0), ("thumbs_down", 0.0), ("Thumbs-Up", 1.0), ("👎", 0.0)],
    ],
)
def test_numbers_and_labels_are_scores(value: object, score: float) -> None:
    assert read_score(value, "score") == score


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "wrong_type"),
        ("N/A", "wrong_type"),
        ([1], "wrong_type"),
        ("", "wrong_type"),
        ("1_000", "wrong_type"),
        *[(float("nan"), "not_finite"), ("inf", "not_finite"), (10**400, "wrong_type"), ({}, "wrong_type")],
    ],
)
def test_what_is_no_score_is_a_fault(faults, value: object, code: str) -> None:
    assert faults([answer("q", "a", value)], "preference", shape="scored") == [(1, code, "score")]


def test_ratings_without_a_number_are_left_out_of_the_mean() -> None:
    assert mean_rating({"a": {"Rating": "5"}, "b": {"Rating": "N/A"}, "c": [{"Rating": "2"}]}) == 3.5
    assert mean_rating({"a": {"Rating": "N/A"}}) is None
    assert mean_rating("5") is None


def test_pair_rules_on_scores_with_a_tie() -> None:
    scores = [2.0, 5.0, 5.0, 1.0]
    assert list(make_pairs(scores, "best_worst", 0)) == [Pair(1, 3, 4.0)]
    assert list(make_pairs(scores, "best_rest", 0)) == [
        Pair(1, 0, 3.0),
        Pair(1, 3, 4.0),
        Outcome("tie", "has 1 of its prompt's pairs of answers scored equal; 2 make one"),
    ]
    assert list(make_pairs(scores, "all", 0)) == [
        Pair(1, 0, 3.0),
        Pair(2, 0, 3.0),
        Pair(0, 3, 1.0),
        Pair(1, 3, 4.0),
        Pair(2, 3, 4.0),
        Outcome("tie", "has 1 of its prompt's pairs of answers scored equal; 5 make one"),
    ]


def test_a_margin_that_is_just_reached_makes_a_pair() -> None:
    assert list(make_pairs([1.0, 3.0], "best_worst", 2.0)) == [Pair(1, 0, 2.0)]
    close = Outcome("tie", "has 1 of its prompt's pairs of answers scored less than 2.5 apart")
    assert list(make_pairs([1.0, 3.0], "best_worst", 2.5)) == [close]
    assert list(make_pairs([3.0, 3.0, 3.0], "best_worst", 0)) == [
        Outcome("tie", "has 1 of its prompt's pairs of answers scored equal")
    ]


def test_answers_are_found_wherever_they_stand_and_pairs_lie_at_the_chosen_one(convert) -> None:
    rows = [
        answer("p1", "a", 1),
        answer("p2", "b", 5),
        answer([{"role": "user", "content": "p1"}], [{"role": "assistant", "content": "c"}], 1),
        answer("p2", "d", 2),
        answer([{"content": "p1", "role": "user"}], [{"role": "assistant", "content": "e"}], 4),
        answer("p1", "f", 3),
    ]
    made = convert(rows, "preference")
    assert [(line, fields["chosen"], fields["rejected"], fields["margin"]) for line, fields in made] == [
        (6, "f", "a", 2.0),
        (2, "b", "d", 3.0),
        (5, [{"role": "assistant", "content": "e"}], [{"role": "assistant", "content": "c"}], 3.0),
    ]
    assert made[0][1]["metadata"] == {"score_chosen": 3.0, "score_rejected": 1.0}


def test_lone_answers_and_ties_are_warnings_at_their_first_row(faults) -> None:
    rows = [
        answer("one", "a", 1),
        answer("tie", "a", 2),
        answer("tie", "b", "2"),
        answer("ok", "a", 1),
        answer("ok", "b", 2),
    ]
    assert faults(rows, "preference") == [(1, "single_answer", None), (2, "tie", None)]


def test_a_faulty_row_is_told_at_once_and_leaves_the_others_their_pair() -> None:
    rows = [answer("q", "a", 1), answer("q", None, 9), answer(7, "x", 1), answer("q", "b", 3)]
    located = [Row(values, Place("x", line, line)) for line, values in enumerate(rows, start=1)]
    made = [
        one
        for one in convert_rows(located, DataSource(path="x"), "preference", "jsonl", "scored")
        if isinstance(one, Candidate)
    ]
    assert [(one.row.place.line, [fault.code for fault in one.faults]) for one in made] == [
        (2, ["wrong_type"]),
        (3, ["wrong_type"]),
        (4, []),
    ]
    assert made[2].row == located[3]


def test_an_unwanted_column_refuses_its_answer_once(faults) -> None:
    rows = [answer("q", "a", 1), answer("q", "b", 2) | {"id": 1}]
    assert faults(rows, "preference", extra="error") == [
        (2, "unknown_field", "id"),
        (1, "single_answer", None),
    ]
    rated = {"prompt": "q", "responses": ["a", "b", "c"], "scores": [1, 2, 3], "id": 1}
    assert faults([rated], "preference", pairs="all", extra="error") == [(1, "unknown_field", "id")]


def test_an_instruction_s_input_is_part_of_the_prompt(convert) -> None:
    rows = [
        {"instruction": "Add", "input": "1 2", "output": out, "kto_tag": out == "3"} for out in ("4", "3")
    ]
    fields = {"prompt": "Add\n\n1 2", "chosen": "3", "rejected": "4", "margin": 1.0}
    ((line, made),) = convert(rows, "preference")
    assert (line, made) == (2, fields | {"metadata": {"score_chosen": 1.0, "score_rejected": 0.0}})


def test_ranks_count_down_from_the_best(convert) -> None:
    row = {"prompt": "q", "responses": ["b", "a", "c"], "ranks": [2, 1, 3]}
    ((_, made),) = convert([row], "preference")
    assert (made["chosen"], made["rejected"], made["margin"]) == ("a", "c", 2.0)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"scores": [1]}, "length_mismatch", "scores"),
        ({"scores": [1, None]}, "missing_field", "scores[1]"),
        ({"scores": {"a": 1}}, "wrong_type", "scores"),
        ({"responses": []}, "blank", "responses"),
        ({"responses": "a"}, "wrong_type", "responses"),
        ({"responses": [{"response": "a"}, {"model": "x"}]}, "missing_field", "responses[1].response"),
        ({"responses": ["a"], "scores": None}, "missing_field", "responses[0].score"),
        ({"prompt": None}, "wrong_type", "prompt"),
        ({"prompt": 3}, "wrong_type", "prompt"),
        ({"scores": [2, 2]}, "tie", None),
        ({"responses": ["a"], "scores": [2]}, "single_answer", None),
    ],
)
def test_gaps_and_ties_in_rated_lists_are_told(
    faults, change: dict[str, object], code: str, field: str | None
) -> None:
    row = {"prompt": "q", "responses": ["a", "b"], "scores": [1, 2]}
    assert faults([row | change], "preference", shape="rated") == [(1, code, field)]


def test_several_pairs_of_one_row_lie_at_that_row(convert) -> None:
    row = {"prompt": "q", "responses": ["a", "b", "c"], "scores": [3, 1, 2]}
    made = convert([row], "preference", pairs="best_rest")
    assert [(line, fields["chosen"], fields["rejected"], fields["margin"]) for line, fields in made] == [
        (1, "a", "b", 2.0),
        (1, "a", "c", 1.0),
    ]


def test_groups_keep_broken_characters_and_dates_apart() -> None:
    groups = PromptGroups[tuple[str, int]]()
    for number, prompt in enumerate(["\ud800", "\ud801", '["x"]', ["x"], "\ud800"]):
        groups.add(prompt, ("x", number))
    assert list(groups.groups()) == [[("x", 0), ("x", 4)], [("x", 1)], [("x", 2)], [("x", 3)]]


def test_grouping_keeps_rows_on_disk() -> None:
    groups = PromptGroups[str]()
    tracemalloc.start()
    for number in range(20_000):
        groups.add(f"prompt {number % 5000}", "x" * 2000)
    num_groups = sum(len(group) == 4 for group in groups.groups())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_groups == 5000
    assert peak < 4_000_000


def test_a_full_disk_is_told_with_a_remedy() -> None:
    groups = PromptGroups[str]()
    groups._base.execute("PRAGMA max_page_count = 8")
    with pytest.raises(DataError, match="full") as caught:
        groups.add("prompt", "x" * 100_000)
    assert "SQLITE_TMPDIR" in str(caught.value)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
