"""Each step of a preparation on a few rows, and what is counted."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from prepared_rows import Prepare, many, row

from rlhf.data.prepare import select as select_module
from rlhf.data.scan import scan
from rlhf.errors import DataError
from rlhf.recipe.data import DataSource


def answers(split: Any) -> list[str]:
    return [item.record.completion for item in split]


def test_without_steps_the_rows_are_those_of_the_source(prepare: Prepare, write: Callable[..., str]) -> None:
    rows = [row("A?", " b", weight=2.0, metadata={"k": 1}), row("<b>", "b\n\n\nc"), row("<b>", "b\n\n\nc")]
    split = prepare(rows)
    assert list(split) == list(scan(DataSource(path=write(rows)), "sft"))
    assert split.counts == {"rows": 3, "given": 3}
    assert split.describe() == "3 rows read; 3 given"


def test_before_it_is_read_a_split_says_so(prepare: Prepare) -> None:
    assert prepare(many(1)).describe() == "not read yet"


def test_texts_and_turns_are_cleaned_and_what_is_left_empty_goes(prepare: Prepare) -> None:
    turns = [{"role": "user", "content": "<p>Hi</p>"}, {"role": "assistant", "content": "Hello &amp; hi"}]
    rows = [{"messages": turns, "weight": 2.0}, row("A?", "<br>"), row("A?", "b")]
    split = prepare(rows, prepare={"clean": ["html", "whitespace"]})
    first, second = [item.record for item in split]
    assert [(turn.role, turn.content) for turn in first.messages] == [
        ("user", "Hi"),
        ("assistant", "Hello & hi"),
    ]
    assert first.weight == 2.0
    assert second.completion == "b"
    assert split.counts == {"rows": 3, "cleaned": 1, "emptied": 1, "given": 2}


def test_pairs_that_cleaning_makes_equal_go(prepare: Prepare) -> None:
    rows = [
        {"prompt": "A?", "chosen": "b", "rejected": "b "},
        {"prompt": "A?", "chosen": "b ", "rejected": "c"},
    ]
    split = prepare(rows, "preference", prepare={"clean": ["whitespace"]})
    assert [(item.record.chosen, item.record.rejected) for item in split] == [("b", "c")]
    assert split.counts == {"rows": 2, "cleaned": 1, "emptied": 0, "equalled": 1, "given": 1}


def test_filler_words_are_removed_by_a_list(prepare: Prepare, tmp_path: Any) -> None:
    words = tmp_path / "fillers.txt"
    words.write_text("um\nyou know\n")
    split = prepare(
        [row("Um, why?", "It was, you know, late."), row("Why?", "Late.")],
        prepare={"filler_words": str(words)},
    )
    assert [(item.record.prompt, item.record.completion) for item in split] == [
        ("why?", "It was late."),
        ("Why?", "Late."),
    ]
    assert split.counts["filler_words"] == 1


def test_rows_are_dropped_by_what_their_cleaned_texts_hold(prepare: Prepare) -> None:
    rows = [
        row("A?", "<b>bold</b>"),
        row("A?", "Write to jo.doe@mail.company.com or <i>call</i>."),
        row("A?", "plain"),
    ]
    both = {"drop": ["html", "email"]}
    dropping = prepare(rows, prepare=both)
    assert answers(dropping) == ["plain"]
    assert sum(count for name, count in dropping.counts.items() if name.startswith("drop.")) == 2
    cleaning = prepare(rows, prepare=both | {"clean": ["html"]})
    assert answers(cleaning) == ["bold", "plain"]
    assert cleaning.counts["drop.email"] == 1
    assert cleaning.counts["drop.html"] == 0


def test_a_row_to_be_dropped_is_no_fault_even_where_the_check_is_an_error(prepare: Prepare) -> None:
    rows = [row("A?", "bad\0"), row("A?", "good")]
    with pytest.raises(DataError, match="nul 1"):
        list(prepare(rows))
    assert answers(prepare(rows, prepare={"drop": ["nul"]})) == ["good"]
    # cleaned first, it has nothing to be dropped for
    assert answers(prepare(rows, prepare={"clean": ["control"], "drop": ["nul"]})) == ["bad", "good"]


def test_rows_are_dropped_by_findings_across_rows(prepare: Prepare) -> None:
    rows = [
        {"prompt": "A?", "chosen": "x", "rejected": "y"},
        {"prompt": "A?", "chosen": "y", "rejected": "x"},
        {"prompt": "B?", "chosen": "x", "rejected": "y"},
        {"prompt": "B?", "chosen": "x", "rejected": "y"},
    ]
    split = prepare(rows, "preference", prepare={"drop": ["contradiction"]})
    assert [item.place.row for item in split] == [3, 4]
    assert split.counts == {"rows": 4, "drop.contradiction": 2, "given": 2}
    both = prepare(rows, "preference", prepare={"drop": ["contradiction"], "deduplicate": "exact"})
    assert [item.place.row for item in both] == [3]
    assert both.counts == {"rows": 4, "drop.contradiction": 2, "duplicates": 1, "given": 1}


def test_equal_rows_stay_once_after_cleaning(prepare: Prepare) -> None:
    rows = [row("A?", "b"), row("A?", "c"), row("A?", "b "), row("A?", "b", metadata={"id": 2})]
    assert [item.place.row for item in prepare(rows, prepare={"deduplicate": "exact"})] == [1, 2, 3]
    steps = {"deduplicate": "exact", "clean": ["whitespace"]}
    split = prepare(rows, prepare=steps)
    assert [item.place.row for item in split] == [1, 2]
    assert split.counts["duplicates"] == 2


def test_nearly_equal_rows_stay_once(prepare: Prepare) -> None:
    text = " ".join(f"word{index}" for index in range(60))
    rows = [
        row("A long question?", text),
        row("A long question?", f"{text} more"),
        row("A long question?", "short"),
    ]
    split = prepare([*rows, rows[2]], prepare={"deduplicate": "near"})
    assert [item.place.row for item in split] == [1, 3]
    assert split.counts["duplicates"] == 2


def test_large_groups_are_cut_to_the_smallest(prepare: Prepare) -> None:
    rows = [row(f"{index}?", "a", metadata={"kind": kind}) for index, kind in enumerate("abbbbbbccca")]
    for ratio, expected in ((1.0, {"a": 2, "b": 2, "c": 2}), (2.0, {"a": 2, "b": 4, "c": 3})):
        split = prepare(rows, prepare={"balance": {"by": "metadata.kind", "max_ratio": ratio}})
        assert Counter(item.record.metadata["kind"] for item in split) == expected
    assert split.counts["balance"] == 2


def test_a_row_without_its_group_is_told_with_its_place(prepare: Prepare) -> None:
    rows = [row("A?", "b", metadata={"kind": "x"}), row("A?", "b")]
    with pytest.raises(DataError, match=r"rows\.jsonl:2: metadata\.kind: is missing"):
        list(prepare(rows, prepare={"balance": {"by": "metadata.kind"}}))


def test_a_balanced_and_sampled_split_keeps_its_groups_balance(prepare: Prepare) -> None:
    # were both drawn with the same numbers, the larger group's rows (chosen as its lowest) would win the sample
    rows = [row(f"{index}?", "a", metadata={"kind": "x" if index < 900 else "y"}) for index in range(1000)]
    steps = {"balance": {"by": "metadata.kind"}, "sample": 100}
    found = Counter(item.record.metadata["kind"] for item in prepare(rows, prepare=steps))
    assert found.total() == 100
    assert 30 < found["x"] < 70  # hypergeometric: standard deviation 3.5


def test_a_sample_has_its_size_and_keeps_the_order(prepare: Prepare) -> None:
    for wanted, size in ((7, 7), (0.25, 10), (99, 40)):
        split = prepare(many(40), prepare={"sample": wanted})
        places = [item.place.row for item in split]
        assert len(places) == size
        assert places == sorted(places)
        assert split.counts["sample"] == 40 - size


def test_the_choice_hangs_on_the_rows_and_the_seed_not_on_their_order(prepare: Prepare) -> None:
    rows = many(60)
    chosen = set(answers(prepare(rows, prepare={"sample": 20})))
    assert set(answers(prepare(rows[::-1], prepare={"sample": 20}))) == chosen
    assert set(answers(prepare(rows, prepare={"sample": 20, "seed": 1}))) != chosen
    # rows that are added take some places and leave all other choices as they were
    more = set(answers(prepare(many(66), prepare={"sample": 20})))
    assert more - chosen <= {f"Answer {index}." for index in range(60, 66)}


def test_weights_multiply_the_rows_own(prepare: Prepare) -> None:
    rows = [
        row("A?", "a", weight=3.0, metadata={"kind": "x"}),
        row("A?", "b", metadata={"kind": "x"}),
        row("A?", "c", metadata={"kind": "y"}),
    ]
    split = prepare(rows, prepare={"weights": {"by": "metadata.kind", "values": {"x": 0.5}}})
    assert [item.record.weight for item in split] == [1.5, 0.5, None]
    assert split.counts["weighted"] == 2
    by_file = prepare(rows, prepare={"weights": {"by": "source", "values": {"rows.jsonl": 2}}})
    assert [item.record.weight for item in by_file] == [6.0, 2.0, 2.0]


def test_a_weight_for_a_group_that_no_row_has_is_refused(prepare: Prepare) -> None:
    weights = {"by": "metadata.kind", "values": {"x": 2, "ecks": 3}}
    rows = [row("A?", "a", metadata={"kind": "x"})]
    with pytest.raises(DataError, match=r"no row has: ecks"):
        list(prepare(rows, prepare={"weights": weights}))


def test_a_weight_that_overflows_is_told(prepare: Prepare) -> None:
    weights = {"by": "source", "values": {"rows.jsonl": 1e300}}
    with pytest.raises(DataError, match=r"rows\.jsonl:1: weight: becomes inf"):
        list(prepare([row("A?", "a", weight=1e300)], prepare={"weights": weights}))


def test_a_split_is_iterable_again_with_the_same_result(prepare: Prepare) -> None:
    steps = {"sample": 0.5, "deduplicate": "exact", "clean": ["nfc"]}
    split = prepare(many(20), prepare=steps)
    first, counts = list(split), split.counts
    assert list(split) == first
    assert split.counts == counts


def test_no_row_left_is_an_error(prepare: Prepare) -> None:
    with pytest.raises(DataError, match=r"no row is left: 1 rows read; 1 dropped for html; 0 given"):
        list(prepare([row("A?", "<b>x</b>")], prepare={"drop": ["html"]}))


def test_a_file_that_changes_between_passes_is_noticed(prepare: Prepare, tmp_path: Any) -> None:
    rows = iter(prepare(many(30_000), prepare={"sample": 0.9}))
    next(rows)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"prompt": "new", "completion": "row"}\n')
    with pytest.raises(DataError, match="changed while it was read"):
        list(rows)


def test_a_file_that_shrinks_before_the_second_of_three_passes_is_noticed(
    prepare: Prepare, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"

    def shrinking(*arguments: Any) -> Any:
        mask = find(*arguments)
        file.write_text('{"prompt": "only", "completion": "one"}\n')
        return mask

    find = select_module._without_findings
    monkeypatch.setattr(select_module, "_without_findings", shrinking)
    with pytest.raises(DataError, match="changed while they were read"):
        list(prepare(many(3), prepare={"drop": ["duplicate"]}))
