"""No text makes a search slow, and the screen lets through all that a search would find."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.content.checks import FINDERS
from rlhf.data.content.screen import suspect
from tests.unit.data.content.test_findings import FOUND

PIECES = [
    "a", "1", " ", "1 ", "1-", "1.", "12.", "@", "a@", "a.@b.", "a@b.c", "a-", "<", "<a ", "<a a=", "<|", "<|a_", "<s>",
    "&", "&#", "&#1", "[", "[/INST", "+", "+1", "+49 ", "0049 ", "(0", "-", "-----BEGIN ", "-----BEGIN RSA ", "sk-", "eyJ",
    "eyJaaaaaaaaaaaaa.", "xoxb-", "AKIA", "DE89", "DE89 ", "GB82WEST ", "2001:", "2abc:", "::", ":", "`", "```", "```\n", "`\n",
    "Human:", "\nHuman: ", "USER: ", "\n", "\n\n", "#", "### ", "a\u0430", "\u0430", "\u03bfa", "\0", "\ufffd", "_", "tel: 0", "phone ",
    "<\uff5c", "4111 ", "4111-1111-", "\u0300", "<!--", "8.8.8.8", "8.8.8.", "v", "version 1.2.3.4 ", "<p", "</",
]  # fmt: skip
SIZE = 100_000


@pytest.mark.parametrize("code", FINDERS)
def test_a_hostile_text_of_100_000_characters_is_searched_in_time(code: str) -> None:
    find = FINDERS[code]
    for piece in PIECES:
        text = (piece * SIZE)[:SIZE]
        start = time.process_time()
        find(text)
        find(text + "\n<" + "x" * 50)
        assert time.process_time() - start < 2.0, f"{code} on {piece!r}"


PARTS = st.sampled_from(
    [*PIECES, *(text for _, text in FOUND), "word ", "é", "я", "中", "\u2028", "z", "K", "S"]
)


@given(st.lists(PARTS, max_size=6).map("".join))
def test_the_screen_never_hides_what_a_search_finds(text: str) -> None:
    suspected = suspect(text)
    for code, find in FINDERS.items():
        if find(text) is not None:
            assert code in suspected


@pytest.mark.parametrize(
    "text",
    [
        "Plain words, of a clean text: 3 (three) or so!",
        "D\u00e9j\u00e0 vu \u201cquoted\u201d \u2026 \u4e2d\u6587",
    ],
)
def test_the_screen_suspects_nothing_of_plain_text(text: str) -> None:
    assert suspect(text) == set()
