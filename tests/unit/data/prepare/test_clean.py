"""Clean-up of texts, one step at a time and together."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.prepare.clean import cleaner


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b>Bold</b> and <i class='x'>slanted</i>", "Bold and slanted"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ('<a href="x>y">link</a>', '<a href="x>y">link'),
        ('<a href="https://example.org/?a=1">link</a>', "link"),
        ("<P>Loud</P>", "\nLoud\n"),
        ("a<!-- never\nseen -->b", "ab"),
        ("x<script>if (a < b) { c() }</script>y", "xy"),
        ("Tom &amp; Jerry&#39;s &#x263A;", "Tom & Jerry's ☺"),
        ("&lt;b&gt; makes text bold", "<b> makes text bold"),
        ("if a < b and b > c", "if a < b and b > c"),
        ("List<int> and vector<std::string>", "List<int> and vector<std::string>"),
        ("?a=1&copy=2", "?a=1&copy=2"),
        ("I <3 you", "I <3 you"),
        ("<br", "<br"),
    ],
)
def test_html_goes_and_what_only_looks_like_it_stays(text: str, expected: str) -> None:
    assert cleaner(["html"])(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x07b\x1b[0m", "ab[0m"),
        ("tab\tand\nbreak", "tab\tand\nbreak"),
        ("dos\r\nold mac\rpage\x0cend\x85", "dos\nold mac\npage\nend\n"),
        ("c1\x9b, del\x7f, nul\x00", "c1, del, nul"),
        ("née 東京 👩‍🚀", "née 東京 👩‍🚀"),
    ],
)
def test_control_characters_go_and_line_ends_become_one_kind(text: str, expected: str) -> None:
    assert cleaner(["control"])(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  two   spaces\tand a tab ", "two spaces and a tab"),
        ("no-break\u00a0\u00a0space", "no-break space"),
        ("a \n b", "a\nb"),
        ("a\n\n\n\nb\r\n\r\n\r\nc", "a\n\nb\n\nc"),
        (" \n\t ", ""),
    ],
)
def test_runs_of_blanks_become_one(text: str, expected: str) -> None:
    assert cleaner(["whitespace"])(text) == expected


def test_unicode_forms_are_told_apart() -> None:
    assert cleaner(["nfc"])("e\u0301 ﬁ") == "é ﬁ"
    assert cleaner(["nfkc"])("e\u0301 ﬁ Ａ") == "é fi A"


def test_steps_run_in_their_own_order_whatever_the_recipes() -> None:
    # the entity is a no-break space, then the combining accent must meet its letter
    text = "<b>e</b>&#769;&nbsp;&nbsp;x&#7; "
    assert cleaner(["whitespace", "control", "nfc", "html"])(text) == "é x"


@given(st.text())
def test_cleaning_again_changes_nothing(text: str) -> None:
    clean = cleaner(["nfkc", "control", "whitespace"])
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFKC", once)


@pytest.mark.parametrize(
    "text",
    [
        "<a " * 30_000,
        '<a b="' * 30_000,
        "&" * 100_000,
        "<!--" * 30_000,
        "<script>" * 8_000,
        " " * 200_000 + "x",
    ],
)
def test_hostile_text_takes_no_time(text: str) -> None:
    start = time.perf_counter()
    cleaner(["html", "control", "whitespace"])(text)
    assert time.perf_counter() - start < 2
