"""The study of KL control: its moving average, when a run has settled, best-of-n; all on numbers worked out by hand."""

from itertools import combinations

import numpy as np
import pytest
from recipe_scripts import load_script

measures = load_script("movie_reviews/kl_measures.py")


def test_the_moving_average_starts_with_the_first_full_window() -> None:
    averages = measures.moving_average(np.array([1.0, 2.0, 6.0, 4.0]), 2)
    assert averages.tolist() == [1.5, 4.0, 5.0]


@pytest.mark.parametrize("window", [0, 5])
def test_a_window_that_does_not_fit_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        measures.moving_average(np.arange(4.0), window)


def test_a_run_that_passes_through_the_band_has_entered_it_before_it_stays() -> None:
    # Averages of two: 5, 10, 15, 14, 11, 10; the band is 8 to 12, so the second is in and the third and fourth are out.
    kl = np.array([0.0, 10.0, 10.0, 20.0, 8.0, 14.0, 6.0])
    found = measures.settling(kl, 10.0, window=2, band=0.2)
    assert (found.entered, found.stays_from) == (3, 6)
    assert found.worst == pytest.approx(0.1)


def test_a_run_that_is_within_the_band_throughout_stays_from_its_first_average() -> None:
    found = measures.settling(np.array([9.0, 9.0, 10.0]), 10.0, window=2, band=0.2)
    assert (found.entered, found.stays_from) == (2, 2)
    assert found.worst == pytest.approx(0.1)


def test_a_run_that_leaves_at_the_end_does_not_stay() -> None:
    found = measures.settling(np.array([10.0, 10.0, 30.0]), 10.0, window=2, band=0.2)
    assert (found.entered, found.stays_from, found.worst) == (2, None, None)


def test_a_run_that_never_comes_near_has_no_numbers() -> None:
    found = measures.settling(np.array([1.0, 1.0, 1.0]), 10.0, window=2, band=0.2)
    assert (found.entered, found.stays_from, found.worst) == (None, None, None)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_ways_to_draw_n_answers(n: int) -> None:
    scores = np.array([[3.0, -1.0, 0.5, 7.0, 2.0], [0.0, 0.0, 1.0, 1.0, -4.0]])
    by_hand = [np.mean([max(drawn) for drawn in combinations(film, n)]) for film in scores.tolist()]
    assert measures.best_of_n_by_film(scores, n) == pytest.approx(by_hand)


def test_best_of_more_answers_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and"):
        measures.best_of_n_by_film(np.zeros((2, 3)), 4)
