"""Draws against plain Python that does the same slowly."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.prepare import draw

KEYS = st.lists(st.integers(0, 5), max_size=40)


def numbers(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def test_numbers_are_mixed_as_splitmix64_mixes_them() -> None:
    # the generator's published first output for the seed 1234567
    assert draw._mix(numbers([1234567])).tolist() == [6457827717110365317]


@given(KEYS)
def test_occurrences_count_equal_keys_before(keys: list[int]) -> None:
    seen: Counter[int] = Counter()
    expected: list[int] = []
    for key in keys:
        expected.append(seen[key])
        seen[key] += 1
    assert draw.occurrences(numbers(keys)).tolist() == expected
    assert draw.first_ones(numbers(keys)).tolist() == [count == 0 for count in expected]


@given(KEYS, st.permutations(range(40)))
def test_the_same_rows_draw_the_same_numbers_in_any_order(keys: list[int], order: list[int]) -> None:
    shuffled = [keys[index] for index in order if index < len(keys)]
    one, other = (draw.priorities(numbers(each), 7, "sample") for each in (keys, shuffled))
    assert sorted(one.tolist()) == sorted(other.tolist())


def test_seeds_and_steps_draw_apart() -> None:
    keys = numbers(list(range(1000)))
    drawn = [draw.priorities(keys, seed, step) for seed, step in ((0, "a"), (1, "a"), (0, "b"))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(drawn[one].astype(float), drawn[other].astype(float))[0, 1]) < 0.1


def test_a_share_takes_about_so_many_of_all_keys() -> None:
    # 10,000 draws of 0.3: standard deviation 46
    held = draw.lowest_share(draw.spread(numbers(list(range(10_000))), 0, "holdout"), 0.3)
    assert abs(int(held.sum()) - 3000) < 200


def test_the_lowest_numbers_are_taken() -> None:
    assert draw.lowest(numbers([5, 1, 4, 2]), 2).tolist() == [False, True, False, True]
    assert draw.lowest(numbers([5, 1]), 9).tolist() == [True, True]


def test_each_group_keeps_its_lowest_up_to_the_ratio() -> None:
    groups, drawn = numbers([7, 7, 7, 7, 9, 7, 9]), numbers([6, 1, 5, 2, 0, 3, 4])
    # the smallest group has 2 rows: 1.5 times as many are 3
    assert draw.lowest_of_each(drawn, groups, 1.5).tolist() == [False, True, False, True, True, True, True]
    assert draw.lowest_of_each(drawn, groups, 1.0).tolist() == [False, True, False, True, True, False, True]
    assert draw.lowest_of_each(numbers([]), numbers([]), 1.0).tolist() == []


def test_masks_nest() -> None:
    keep = np.array([True, False, True, True])
    assert draw.within(keep, np.array([False, True, True])).tolist() == [False, False, True, True]
