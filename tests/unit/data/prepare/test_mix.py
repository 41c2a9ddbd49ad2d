"""Sources mixed into another one."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from prepared_rows import Prepare, many, row

from rlhf.errors import DataError

Write = Callable[..., str]


def files(split: Any) -> list[str]:
    return [item.place.path.rpartition("/")[2] for item in split]


def test_a_share_is_one_of_the_result_and_all_own_rows_stay(prepare: Prepare, write: Write) -> None:
    general, code = write(many(50, "General"), "general.jsonl"), write(many(50, "Code"), "code.jsonl")
    # 30 own rows are 60 % of 50
    split = prepare(many(30), mix_in=[{"path": general, "share": 0.3}, {"path": code, "share": 0.1}])
    items = list(split)
    assert Counter(files(items)) == {"rows.jsonl": 30, "general.jsonl": 15, "code.jsonl": 5}
    assert len({item.record.prompt for item in items}) == 50
    assert split.counts["mix_in.0.drawn"] == 15
    assert split.counts["given"] == 50
    assert "15 mixed in from" in split.describe()


def test_sources_are_spread_evenly_and_keep_their_order(prepare: Prepare, write: Write) -> None:
    general = write(many(2, "General"), "general.jsonl")
    items = list(prepare(many(4), mix_in=[{"path": general, "share": 0.33}]))
    # own rows at 1/8, 3/8, 5/8, 7/8 of the way, the mixed ones at 1/4 and 3/4
    own, mixed = "rows.jsonl", "general.jsonl"
    assert files(items) == [own, mixed, own, own, mixed, own]
    assert [item.place.row for item in items] == [1, 1, 2, 3, 2, 4]


def test_the_draw_hangs_on_the_rows_and_the_mixed_sources_seed(prepare: Prepare, write: Write) -> None:
    def drawn(rows: Any, seed: int = 0) -> set[str]:
        mixed = {"path": write(rows, "general.jsonl"), "share": 0.5, "prepare": {"seed": seed}}
        return {item.record.prompt for item in prepare(many(10), mix_in=[mixed])} - {
            r["prompt"] for r in many(10)
        }

    rows = many(40, "General")
    assert len(drawn(rows)) == 10
    assert drawn(rows[::-1]) == drawn(rows)
    assert drawn(rows, 1) != drawn(rows)


def test_too_few_rows_are_an_error_unless_they_may_repeat(prepare: Prepare, write: Write) -> None:
    mixed = {"path": write(many(4, "General"), "general.jsonl"), "share": 0.5}
    with pytest.raises(
        DataError, match=r"general\.jsonl: has 4 rows to mix in, but a share of 0\.5 needs 10"
    ):
        list(prepare(many(10), mix_in=[mixed]))
    items = list(prepare(many(10), mix_in=[mixed | {"repeat": True}]))
    times = Counter(item.record.prompt for item in items if "General" in item.record.prompt)
    assert sorted(times.values()) == [2, 2, 3, 3]


def test_a_mixed_source_goes_through_its_own_steps_first(
    prepare: Prepare, write: Write, tmp_path: Any
) -> None:
    rows = [row("General?", "<b>a</b>"), row("General?", "a"), row("General?", "c"), {"prompt": "General?"}]
    mixed = {
        "path": write(rows, "general.jsonl"),
        "share": 0.5,
        "on_error": "quarantine",
        "max_faulty_share": 0.5,
        "prepare": {"clean": ["html"], "deduplicate": "exact"},
    }
    split = prepare(many(2), mix_in=[mixed], quarantine=True)
    assert sorted(item.record.completion for item in split) == ["Answer 0.", "Answer 1.", "a", "c"]
    assert (tmp_path / "stage" / "quarantine.mix_in-0.jsonl").is_file()
    assert "1 faulty" in split.describe()
    assert "(quarantine.mix_in-0.jsonl)" in split.describe()
