import random

import pytest

from rlhf.data.across import Across, Tally
from rlhf.recipe.checks import ChecksSection
from rlhf_schemas import RECORDS

WORDS = [a + b + c for a in "bdfgklm" for b in "aeiou" for c in "nrst"]


def find(kind, rows, similarity=0.8, **severity):
    checks = ChecksSection(near_duplicate_similarity=similarity, severity=severity)
    tally, across = Tally(kind, checks), Across(kind, checks)
    for row in rows:
        tally.add(RECORDS[kind].model_validate(row), "a.jsonl")
    across.extend(tally)
    repeated = ("near_duplicate", "duplicate")
    return {
        finding.ordinal: (finding.code, finding.other)
        for finding in across.findings()
        if finding.code in repeated
    }


def text(draw, number):
    return " ".join(draw.choices(WORDS, k=number))


def jaccard(one, other):
    def grams(words):
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    first, second = grams(one.split()), grams(other.split())
    return len(first & second) / len(first | second)


def edited(draw, original, number):
    words = original.split()
    for place in draw.sample(range(len(words)), number):
        words[place] = "edited" + str(place)
    return " ".join(words)


NEAR = ("near_duplicate", 0)


def test_one_word_changed_in_a_long_text_is_near_and_case_and_space_do_not_count():
    original = text(random.Random(1), 100)
    rows = [
        {"text": original},
        {"text": edited(random.Random(2), original, 1)},
        {"text": f" {original.upper()}\n"},
    ]
    assert find("sft", rows) == {1: NEAR, 2: NEAR}


def test_an_equal_row_is_a_duplicate_and_not_told_again_as_near():
    original = text(random.Random(1), 100)
    assert find("sft", [{"text": original}, {"text": original}]) == {1: ("duplicate", 0)}
    assert find("sft", [{"text": original}, {"text": original}], duplicate="off") == {}


def test_a_short_text_is_near_only_to_the_same_words():
    rows = [{"prompt": "Is water wet?"}, {"prompt": "is water  WET?"}, {"prompt": "Is water hot?"}]
    assert find("prompt", rows) == {1: NEAR}
    fifteen = text(random.Random(6), 14)
    rows = [{"prompt": f"{fifteen} one"}, {"prompt": f"{fifteen} two"}]
    assert jaccard(rows[0]["prompt"], rows[1]["prompt"]) > 0.85
    assert find("prompt", rows) == {}


def test_writing_without_spaces_is_compared_by_characters():
    draw = random.Random(5)
    original = "".join(chr(draw.randrange(0x4E00, 0x9F00)) for _ in range(200))
    changed = original[:100] + "中" + original[101:]
    other = "".join(chr(draw.randrange(0x4E00, 0x9F00)) for _ in range(200))
    assert find("sft", [{"text": original}, {"text": changed}, {"text": other}]) == {1: NEAR}


def test_pairs_are_near_only_where_prompt_chosen_and_rejected_all_are():
    draw = random.Random(7)
    prompt, one, other, third = (text(draw, 80) for _ in range(4))
    near = {name: edited(draw, value, 1) for name, value in (("p", prompt), ("a", one), ("b", other))}
    rows = [
        {"prompt": prompt, "chosen": one, "rejected": other},
        {"prompt": prompt, "chosen": one, "rejected": third},
        {"prompt": prompt, "chosen": third, "rejected": other},
        {"prompt": third, "chosen": one, "rejected": other},
        {"prompt": prompt, "chosen": other, "rejected": one},
        {"prompt": near["p"], "chosen": near["a"], "rejected": near["b"]},
    ]
    assert find("preference", rows, contradiction="off") == {5: NEAR}


def test_two_completions_of_one_long_prompt_are_not_near():
    draw = random.Random(8)
    prompt = text(draw, 500)
    rows = [{"prompt": prompt, "completion": text(draw, 20)} for _ in range(5)]
    assert find("sft", rows) == {}


@pytest.mark.parametrize("number", [40, 1100])
def test_rows_far_above_the_bound_are_found_and_rows_far_below_are_not(number):
    draw = random.Random(number)
    originals = [text(draw, 120) for _ in range(number)]
    edits = [draw.choice([1, 2, 25]) for _ in originals]
    copies = [edited(draw, original, count) for original, count in zip(originals, edits, strict=True)]
    expected = {}
    for index, (original, copy) in enumerate(zip(originals, copies, strict=True)):
        similarity = jaccard(original, copy)
        assert similarity > 0.9 or similarity < 0.65
        if similarity > 0.9:
            expected[number + index] = ("near_duplicate", index)
    found = find("sft", [{"text": row} for row in originals + copies])
    assert not set(found) - set(expected)
    assert all(found[row] == expected[row] for row in found)
    assert len(found) >= 0.98 * len(expected)


def test_a_lower_bound_finds_rows_that_are_less_alike():
    draw = random.Random(4)
    original = text(draw, 200)
    copy = edited(draw, original, 12)
    assert 0.55 < jaccard(original, copy) < 0.75
    assert find("sft", [{"text": original}, {"text": copy}], similarity=0.95) == {}
    assert find("sft", [{"text": original}, {"text": copy}], similarity=0.4) == {1: NEAR}


def test_rollouts_are_not_compared_for_nearness():
    original = text(random.Random(1), 100)
    lists = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
    row = {"prompt": "Hi?", "prompt_ids": [1], "response_ids": [2], "score": 1.0, "finish_reason": "eos"}
    row |= {name: [0.0] for name in lists} | {"policy": "p", "reward_model": "r", "step": 1, "seed": 0}
    rows = [{**row, "response": original}, {**row, "response": original + " more"}]
    assert find("rollout", rows) == {}
