"""The user's list of sensitive words."""

import time
from pathlib import Path

import pytest

from rlhf.data.content import ContentChecks
from rlhf.data.content.words import SensitiveWords
from rlhf.data.place import Place
from rlhf.errors import DataError
from rlhf.recipe.checks import ChecksSection
from rlhf_schemas import PreferenceRecord, PromptRecord


def words(folder: Path, *entries: str) -> SensitiveWords:
    path = folder / "words.txt"
    path.write_text("\n".join(entries), encoding="utf-8")
    return SensitiveWords(str(path))


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("bomb", "A BOMB!"),
        ("Stra\u00dfe", "die STRASSE dort"),
        ("bad  word", "a Bad\nword."),
        ("don't", "Don't go"),
        ("c++", "I write C++ daily"),
        ("c++", "c++11"),
        ("@home", "an @home one"),
        ("\u0431\u043e\u043c\u0431\u0430", "\u0411\u041e\u041c\u0411\u0410 there"),
        ("\u7206\u5f3e", "\u3053\u308c\u306f\u7206\u5f3e\u3067\u3059"),
        ("\u5350", "x\u5350y"),
        ("***", "a***b"),
        ("\uff22omb", "bomb"),
    ],
)
def test_an_entry_is_found_whole_whatever_its_form(tmp_path: Path, entry: str, text: str) -> None:
    assert words(tmp_path, "other", entry).find(text) is not None


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("bomb", "bombastic aplomb, Bombay"),
        ("ass", "class, assess, embassy"),
        ("bad word", "bad words, badword, bad, word"),
        ("c++", "c+ and C"),
        ("\u0928\u092e", "\u0928\u092e\u0940"),  # a vowel sign belongs to the word
    ],
)
def test_part_of_a_longer_word_is_not_an_entry(tmp_path: Path, entry: str, text: str) -> None:
    assert words(tmp_path, entry).find(text) is None


def test_the_fault_names_the_entry_and_the_field(tmp_path: Path) -> None:
    words(tmp_path, "", "  Bomb  ", "")
    section = ChecksSection(sensitive_words=str(tmp_path / "words.txt"))
    pair = PreferenceRecord(prompt="Hi?", chosen="A bomb.", rejected="No.")
    (fault,) = ContentChecks(section, "preference").find(pair, Place("x", 1))
    assert (fault.code, fault.field, fault.value) == ("sensitive_word", "chosen", "'bomb'")


def test_a_phrase_over_the_border_of_two_fields_is_none(tmp_path: Path) -> None:
    words(tmp_path, "bad word")
    section = ChecksSection(sensitive_words=str(tmp_path / "words.txt"))
    pair = PreferenceRecord(prompt="bad", chosen="word", rejected="x")
    assert ContentChecks(section, "preference").find(pair, Place("x", 1)) == []


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfe"])
def test_a_list_without_words_or_not_in_utf8_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"words\.txt.*") as caught:
        ContentChecks(ChecksSection(sensitive_words=str(path)), "prompt")
    assert caught.value.remedy is not None


def test_a_list_that_is_not_there_is_refused_unless_the_check_is_off(tmp_path: Path) -> None:
    path = str(tmp_path / "none.txt")
    with pytest.raises(DataError, match="No such file"):
        ContentChecks(ChecksSection(sensitive_words=path), "prompt")
    off = ChecksSection(sensitive_words=path, severity={"sensitive_word": "off"})
    assert ContentChecks(off, "prompt").find(PromptRecord(prompt="Hi"), Place("x", 1)) == []


def test_twenty_thousand_entries_cost_no_more_than_a_few(tmp_path: Path) -> None:
    listed = words(tmp_path, *(f"word{n} of{n}" for n in range(20_000)), "the end")
    text = "Plain words of a clean text that goes on and on. " * 15
    start = time.perf_counter()
    for _ in range(200):
        assert listed.find(text) is None
    assert time.perf_counter() - start < 1.0
