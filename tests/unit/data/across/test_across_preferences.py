"""Duplicates, contradictions and circles against a slow reference that compares texts and walks every path."""

import pickle
import random

import pytest

from rlhf.data.across import Across, Tally
from rlhf.recipe.checks import ChecksSection
from rlhf_schemas import PreferenceRecord

EXACT = ChecksSection(severity={"near_duplicate": "off", "length_bias": "off", "mixed_languages": "off"})


def find(rows, checks=EXACT, block=1000):
    across = Across("preference", checks)
    for start in range(0, len(rows), block):
        tally = Tally("preference", checks)
        for prompt, chosen, rejected in rows[start : start + block]:
            tally.add(PreferenceRecord(prompt=prompt, chosen=chosen, rejected=rejected), "a.jsonl")
        across.extend(pickle.loads(pickle.dumps(tally)))
    return list(across.findings())


def places(findings, code):
    return {finding.ordinal: finding.other for finding in findings if finding.code == code}


def reaches(edges, start, goal):
    seen, left = {start}, [start]
    while left:
        node = left.pop()
        for one, other in edges:
            if one == node and other not in seen:
                seen.add(other)
                left.append(other)
    return goal in seen


def expected(rows):
    duplicates = {i: rows.index(row) for i, row in enumerate(rows) if rows.index(row) < i}
    opposed = {
        i: next(j for j, other in enumerate(rows) if other == (row[0], row[2], row[1]))
        for i, row in enumerate(rows)
        if (row[0], row[2], row[1]) in rows
    }
    decided = [(i, row) for i, row in enumerate(rows) if i not in opposed]
    circles = set()
    for i, (prompt, chosen, rejected) in decided:
        edges = {(row[1], row[2]) for _, row in decided if row[0] == prompt}
        if reaches(edges, rejected, chosen):
            circles.add(i)
    return duplicates, opposed, circles


def test_a_repeated_row_names_the_first():
    found = find([("p", "a", "b"), ("p", "a", "c"), ("p", "a", "b"), ("q", "a", "b"), ("p", "a", "b")])
    assert places(found, "duplicate") == {2: 0, 4: 0}
    assert len(found) == 2


def test_a_preference_and_its_opposite_name_each_other():
    found = find([("p", "a", "b"), ("q", "b", "a"), ("p", "b", "a")])
    assert places(found, "contradiction") == {0: 2, 2: 0}
    assert len(found) == 2


def test_a_circle_names_each_of_its_rows_and_no_other():
    rows = [
        ("p", "x", "a"),
        ("p", "a", "b"),
        ("p", "b", "c"),
        ("p", "c", "a"),
        ("p", "c", "y"),
        ("q", "c", "b"),
    ]
    found = find(rows)
    assert places(found, "preference_cycle") == {1: 2, 2: 3, 3: 1}
    assert len(found) == 3


def test_the_same_answers_to_different_prompts_make_no_circle():
    assert find([("p", "a", "b"), ("q", "b", "c"), ("r", "c", "a")]) == []


def test_two_contradictions_that_share_an_answer_make_no_circle():
    found = find([("p", "a", "b"), ("p", "b", "a"), ("p", "b", "c"), ("p", "c", "b")])
    assert {finding.code for finding in found} == {"contradiction"}
    assert len(found) == 4


def test_a_circle_longer_than_the_stack_is_found():
    number = 3000
    rows = [("p", f"a{i}", f"a{(i + 1) % number}") for i in range(number)]
    assert places(find(rows), "preference_cycle") == {i: (i + 1) % number for i in range(number)}


@pytest.mark.parametrize("seed", range(20))
def test_random_preferences_are_judged_as_the_reference_judges_them(seed):
    draw = random.Random(seed)
    rows = [(draw.choice("pq"), *draw.sample("abcdefgh", 2)) for _ in range(draw.choice([5, 12, 25]))]
    found = find(rows, block=draw.choice([3, 7, 100]))
    duplicates, opposed, circles = expected(rows)
    assert places(found, "duplicate") == duplicates
    assert places(found, "contradiction") == opposed
    assert set(places(found, "preference_cycle")) == circles


def test_many_rows_are_judged_as_few_are():
    draw = random.Random(3)
    rows = [(f"p{i // 6}", *draw.sample("abcd", 2)) for i in range(3000)]
    found = find(rows)
    duplicates, opposed, circles = {}, {}, set()
    for start in range(0, len(rows), 6):  # each prompt's rows lie together
        one, two, three = expected(rows[start : start + 6])
        duplicates |= {i + start: j + start for i, j in one.items()}
        opposed |= {i + start: j + start for i, j in two.items()}
        circles |= {i + start for i in three}
    assert min(len(duplicates), len(opposed), len(circles)) > 20
    assert places(found, "duplicate") == duplicates
    assert places(found, "contradiction") == opposed
    assert set(places(found, "preference_cycle")) == circles


@pytest.mark.parametrize("code", ["duplicate", "contradiction", "preference_cycle"])
def test_a_code_that_is_off_is_not_found_and_the_others_are(code):
    rows = [
        ("p", "a", "b"),
        ("p", "a", "b"),
        ("p", "b", "c"),
        ("p", "c", "a"),
        ("q", "a", "b"),
        ("q", "b", "a"),
    ]
    checks = ChecksSection(severity={**EXACT.severity, code: "off"})
    all_codes = {"duplicate", "contradiction", "preference_cycle"}
    assert {finding.code for finding in find(rows, checks)} == all_codes - {code}
