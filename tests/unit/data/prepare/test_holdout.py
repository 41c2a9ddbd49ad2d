"""A held-out split taken out of the training source."""

from collections.abc import Callable
from typing import Any

import pytest
from prepared_rows import Prepare, Rows, many, row

from rlhf.errors import DataError

HOLDOUT = {"share": 0.2}


def sides(
    prepare: Prepare, rows: Rows, holdout: Any = HOLDOUT, **settings: Any
) -> tuple[list[Any], list[Any]]:
    train, held = (
        list(prepare(rows, holdout=holdout, part=part, **settings)) for part in ("train", "held_out")
    )
    return train, held


def test_every_row_is_on_one_side_and_groups_stay_together(prepare: Prepare) -> None:
    # the same prompt in another case and spacing is the same group
    rows = [
        row(ask, f"Answer {index}.")
        for index in range(100)
        for ask in (f"Question {index}?", f"question  {index}? ")
    ]
    train, held = sides(prepare, rows)
    assert sorted(item.place.row for item in [*train, *held]) == list(range(1, 201))
    assert {(item.place.row - 1) // 2 for item in train}.isdisjoint(
        (item.place.row - 1) // 2 for item in held
    )
    assert 16 <= len(held) <= 64  # binomial, of 100 groups with 0.2: 20, standard deviation 4


def test_rows_that_are_added_change_no_other_rows_side(prepare: Prepare) -> None:
    _, held = sides(prepare, many(100))
    train, more = sides(prepare, many(150)[::-1])
    assert {item.record.prompt for item in held} <= {item.record.prompt for item in more}
    assert not {item.record.prompt for item in held} & {item.record.prompt for item in train}


def test_the_seed_and_the_group_decide(prepare: Prepare) -> None:
    rows = [row(f"{index}?", "a", metadata={"author": f"author {index % 10}"}) for index in range(100)]
    train, held = sides(prepare, rows, {"share": 0.4, "by": "metadata.author"})
    authors = [{item.record.metadata["author"] for item in side} for side in (train, held)]
    assert authors[0].isdisjoint(authors[1])
    assert len(authors[0]) + len(authors[1]) == 10
    other = sides(prepare, rows, {"share": 0.4, "by": "metadata.author", "seed": 3})[1]
    assert {item.record.metadata["author"] for item in other} != authors[1]


def test_both_sides_see_the_steps_and_are_counted(prepare: Prepare) -> None:
    rows = [*many(50), *many(50)]
    splits = [
        prepare(rows, holdout=HOLDOUT, part=part, prepare={"deduplicate": "exact"})
        for part in ("train", "held_out")
    ]
    train, held = [len(list(split)) for split in splits]
    assert train + held == 50
    assert splits[0].counts == {"rows": 100, "duplicates": 50, "held_out": held, "given": train}
    assert splits[1].counts == {"rows": 100, "duplicates": 50, "trained_on": train, "given": held}


def test_a_holdout_that_takes_none_or_all_is_refused(prepare: Prepare) -> None:
    for share, which in ((1e-9, "none"), (1 - 1e-9, "all")):
        with pytest.raises(DataError, match=rf"rows\.jsonl: holdout takes {which} of the groups by prompt"):
            sides(prepare, many(10), {"share": share})


def test_nothing_is_mixed_into_the_held_out_rows_and_none_of_their_groups_comes_back(
    prepare: Prepare, write: Callable[..., str]
) -> None:
    general = write([*many(100), *many(30, "General")], "general.jsonl")
    mix = [{"path": general, "share": 0.3}]
    train, held = sides(prepare, many(100), mix_in=mix)
    assert all(item.place.path.endswith("rows.jsonl") for item in held)
    assert {item.record.prompt for item in held}.isdisjoint(item.record.prompt for item in train)
    own = sum(item.place.path.endswith("rows.jsonl") for item in train)
    assert own == 100 - len(held)
    assert len(train) == own + round(own / 0.7 * 0.3)


def test_a_mixed_row_without_the_group_cannot_be_held_out(
    prepare: Prepare, write: Callable[..., str]
) -> None:
    rows = [row(f"{index}?", "a", metadata={"author": str(index)}) for index in range(40)]
    mix = [{"path": write(many(40, "General"), "general.jsonl"), "share": 0.5}]
    train, _ = sides(prepare, rows, {"share": 0.2, "by": "metadata.author"}, mix_in=mix)
    assert sum(item.place.path.endswith("general.jsonl") for item in train) == len(train) // 2
