"""Filler words removed with the commas and blanks that set them off."""

import time
from pathlib import Path

import pytest

from rlhf.data.prepare.fillers import filler_remover, read_words
from rlhf.errors import DataError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Um, I think so.", "I think so."),
        ("I um think so.", "I think so."),
        ("It was, you know, great.", "It was great."),
        ("It was great, you know.", "It was great."),
        ("Yes, um I think so.", "Yes, I think so."),
        ("It was fine um, and then not.", "It was fine, and then not."),
        ("It was um, uh, you   know, odd", "It was, odd"),
        ("(um well)", "(well)"),
        ("First.\nUm, second.", "First.\nsecond."),
        ("UM", ""),
        ("The album, umbrella and um-ah stay.", "The album, umbrella and um-ah stay."),
        ("You knowingly said so.", "You knowingly said so."),
        ("Nothing  to do here .", "Nothing  to do here ."),
    ],
)
def test_words_go_with_what_sets_them_off(text: str, expected: str) -> None:
    assert filler_remover(["um", "uh", "you know"])(text) == expected


def test_of_two_that_begin_alike_the_longer_is_taken() -> None:
    assert filler_remover(["sort", "sort of"])("It is sort of blue.") == "It is blue."


def test_words_are_no_patterns() -> None:
    assert filler_remover(["a.c", "(sic)"])("abc stays, a.c goes") == "abc stays, goes"


def test_long_runs_of_blanks_take_no_time() -> None:
    remove = filler_remover(["um"])
    start = time.perf_counter()
    assert remove("um" + " " * 100_000 + "x" + " " * 100_000) == "x" + " " * 100_000
    remove("um , " * 20_000)
    assert time.perf_counter() - start < 2


def test_a_list_has_a_word_or_phrase_a_line(tmp_path: Path) -> None:
    path = tmp_path / "fillers.txt"
    path.write_text("um\n\n  you   know \nähm\n", encoding="utf-8")
    assert read_words(str(path)) == ["um", "you know", "ähm"]


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"\xff\n", "is not UTF-8"), (b"\n \n", "is empty")]
)
def test_a_list_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "fillers.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_words(str(path))
    assert str(path) in str(caught.value)
