"""What all rows of a source show together: lengths, labels, scripts."""

import pytest

from rlhf.data.across import Across, Tally
from rlhf.recipe.checks import ChecksSection
from rlhf_schemas import RECORDS


def survey(kind, rows, **checks):
    section = ChecksSection(**checks)
    across = Across(kind, section)
    for start in range(0, len(rows), 7):  # several blocks
        tally = Tally(kind, section)
        for path, row in rows[start : start + 7]:
            tally.add(RECORDS[kind].model_validate(row), path)
        across.extend(tally)
    return across


def found(across, code):
    return [finding for finding in across.findings() if finding.code == code]


def pairs(num_longer, num_equal, num_shorter):
    answers = [("aaaa", "bb")] * num_longer + [("aa", "bb")] * num_equal + [("aa", "bbbb")] * num_shorter
    return [
        ("a.jsonl", {"prompt": f"{i}", "chosen": one, "rejected": other})
        for i, (one, other) in enumerate(answers)
    ]


def test_the_share_of_longer_chosen_answers_counts_ties_half():
    assert survey("preference", pairs(5, 2, 3)).facts()["chosen_longer_share"] == 0.6


def test_length_bias_is_found_where_the_whole_interval_lies_above_the_bound():
    # Wilson's lower ends by hand: 80 of 100 -> 0.7112, 72 of 100 -> 0.6251
    assert len(found(survey("preference", pairs(80, 0, 20)), "length_bias")) == 1
    assert found(survey("preference", pairs(72, 0, 28)), "length_bias") == []
    assert len(found(survey("preference", pairs(80, 0, 20), max_length_bias=0.711), "length_bias")) == 1
    assert found(survey("preference", pairs(80, 0, 20), max_length_bias=0.7113), "length_bias") == []


def test_length_bias_needs_fifty_pairs():
    assert found(survey("preference", pairs(49, 0, 0)), "length_bias") == []
    assert len(found(survey("preference", pairs(50, 0, 0)), "length_bias")) == 1


def test_the_length_of_messages_is_that_of_what_is_said():
    row = {
        "prompt": [{"role": "user", "content": "Hi?"}],
        "chosen": [{"role": "assistant", "content": "Hello."}],
        "rejected": [{"role": "assistant", "content": "Hi."}],
    }
    assert survey("preference", [("a.jsonl", row)]).facts()["chosen_longer_share"] == 1


def labelled(path, num_good, num_bad, **metadata):
    labels = ["good"] * num_good + ["bad"] * num_bad
    return [
        (path, {"text": f"{path} {i}", "metadata": {"label": label, **metadata}})
        for i, label in enumerate(labels)
    ]


def test_a_file_with_one_label_beside_a_balanced_one_is_named():
    rows = labelled("one.jsonl", 57, 3) + labelled("two.jsonl", 30, 30)
    (finding,) = found(survey("sft", rows), "label_imbalance")
    assert finding.ordinal is None
    assert "one.jsonl" in finding.message
    assert "95.0%" in finding.message


@pytest.mark.parametrize(
    "rows",
    [
        labelled("one.jsonl", 60, 0),
        labelled("one.jsonl", 56, 4) + labelled("two.jsonl", 30, 30),
        labelled("one.jsonl", 60, 0) + labelled("two.jsonl", 50, 10),
        labelled("one.jsonl", 49, 0) + labelled("two.jsonl", 30, 30),
        labelled("one.jsonl", 60, 0) + labelled("two.jsonl", 20, 20),
    ],
    ids=["alone", "below 95%", "others alike", "too few", "too few others"],
)
def test_balanced_or_small_sources_are_not_named(rows):
    assert found(survey("sft", rows), "label_imbalance") == []


def test_metadata_names_the_source_and_the_sign_of_a_score_is_a_label():
    rows = [
        ("a.jsonl", {"text": f"t{i}", "metadata": {"source": "web" if i < 60 else "shop", "score": score}})
        for i, score in enumerate([0.5] * 60 + [1, -1.5] * 30)
    ]
    (finding,) = found(survey("sft", rows), "label_imbalance")
    assert "score > 0 in 100.0% of the 60 rows of source web" in finding.message


def test_what_differs_in_every_row_is_no_label():
    rows = labelled("one.jsonl", 60, 0) + labelled("two.jsonl", 0, 60)
    rows += [("two.jsonl", {"text": f"x{i}", "metadata": {"label": f"id {i}"}}) for i in range(10_001)]
    assert found(survey("sft", rows, severity={"near_duplicate": "off"}), "label_imbalance") == []


LATIN, RUSSIAN, JAPANESE = "How are you?", "Как у вас дела?", "お元気ですか。"


def texts(*counted):
    return [("a.jsonl", {"text": f"{text} {i}"}) for text, number in counted for i in range(number)]


def test_rows_in_a_rare_script_are_found():
    across = survey("sft", texts((RUSSIAN, 1), (LATIN, 97), (JAPANESE, 2)))
    assert [finding.ordinal for finding in found(across, "mixed_languages")] == [0, 98, 99]
    facts = across.facts()
    assert (facts["script_latin_share"], facts["script_cyrillic_share"], facts["script_han_share"]) == (
        0.97,
        0.01,
        0.02,
    )


def test_latin_rows_among_others_are_found_too_and_rows_without_letters_are_not():
    across = survey("sft", texts((RUSSIAN, 60), (LATIN, 2), ("12:", 5)))
    assert [finding.ordinal for finding in found(across, "mixed_languages")] == [60, 61]


@pytest.mark.parametrize(
    "rows",
    [
        texts((LATIN, 18), (RUSSIAN, 1)),
        texts((LATIN, 88), (RUSSIAN, 10), (JAPANESE, 2)),
        texts((LATIN, 94), (RUSSIAN, 6)),
    ],
    ids=["too few rows", "none above 90%", "not rare"],
)
def test_a_source_of_several_languages_is_left_alone(rows):
    assert found(survey("sft", rows), "mixed_languages") == []


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Ein Café in Köln – “schön”!", "latin"),
        ("The word Москва is Russian", "latin"),
        ("Слово London английское", "cyrillic"),
        ("Καλημέρα κόσμε", "greek"),
        ("שלום עולם", "hebrew"),
        ("مرحبا بالعالم", "arabic"),
        ("नमस्ते दुनिया", "devanagari"),
        ("สวัสดีชาวโลก", "thai"),
        ("안녕하세요", "hangul"),
        ("今日はいい天気です", "han"),
        ("ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ", "other"),
        ("Привет " * 500 + "hello " * 300, "cyrillic"),
    ],
)
def test_the_script_is_that_of_most_letters(text, script):
    assert survey("sft", [("a.jsonl", {"text": text})]).facts() == {f"script_{script}_share": 1.0}


def test_checks_that_are_off_measure_nothing():
    off = {"length_bias": "off", "mixed_languages": "off"}
    assert survey("preference", pairs(80, 0, 20), severity=off).facts() == {}
