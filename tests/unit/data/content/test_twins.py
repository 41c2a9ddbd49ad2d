"""Pairs whose answers differ in form alone."""

import pytest

from rlhf.data.content import ContentChecks
from rlhf.data.normalise import normalise
from rlhf.data.place import Place
from rlhf.recipe.checks import ChecksSection
from rlhf_schemas import Message, PreferenceRecord


def codes(chosen: str | list[Message], rejected: str | list[Message], prompt: str | None = None) -> list[str]:
    pair = PreferenceRecord(prompt=prompt, chosen=chosen, rejected=rejected)
    return [fault.code for fault in ContentChecks(ChecksSection(), "preference").find(pair, Place("x", 1))]


def turns(question: str, answer: str) -> list[Message]:
    return [Message(role="user", content=question), Message(role="assistant", content=answer)]


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("A good film.", "a GOOD film."),
        ("A good film.", " A  good\n\tfilm. "),
        ("Caf\u00e9 noir", "Cafe\u0301 noir"),
        ("Stra\u00dfe", "STRASSE"),
        ("\ufb01ne", "Fine"),
        ("\uff21 film", "a film"),
        ("a\u00a0film", "a film"),
        ("A film that ends in \u00e9", "A film that ends in e\u0301"),
    ],
)
def test_answers_that_differ_in_form_alone_are_told(chosen: str, rejected: str) -> None:
    assert codes(chosen, rejected, prompt="Review it.") == ["equal_after_normalisation"]


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("A good film.", "A good film!"),
        ("no where", "nowhere"),
        ("Caf\u00e9", "Cafe"),
        ("A film", "A film of"),
        ("Ein \u00dcbel", "Ein Ubel"),
    ],
)
def test_answers_that_differ_in_more_are_not(chosen: str, rejected: str) -> None:
    assert codes(chosen, rejected, prompt="Review it.") == []


def test_turns_are_compared_turn_by_turn() -> None:
    assert codes(turns("Hi", "Yes"), turns("Hi", "YES ")) == ["equal_after_normalisation"]
    assert codes(turns("Hi", "Yes"), turns("Hi", "No")) == []


def test_turns_of_different_number_are_not_equal() -> None:
    assert codes(turns("Hi", "Yes"), [*turns("Hi", "Yes "), *turns("So", "Yes")]) == []


def test_the_fault_stands_at_chosen() -> None:
    pair = PreferenceRecord(prompt="Q", chosen="Yes", rejected="yes")
    (fault,) = ContentChecks(ChecksSection(), "preference").find(pair, Place("x", 1))
    assert fault.field == "chosen"


@pytest.mark.parametrize(
    ("text", "normal"),
    [("  A\tB \n c ", "a b c"), ("\u0130I", "i\u0307i"), ("\u2460 \ufb03", "1 ffi"), ("", ""), (" \n", "")],
)
def test_the_normal_form_folds_case_spaces_and_spellings(text: str, normal: str) -> None:
    assert normalise(text) == normal


def test_the_normal_form_of_a_normal_form_is_itself() -> None:
    text = " ".join(chr(code) for code in range(0x3000) if not chr(code).isspace())
    assert normalise(normalise(text)) == normalise(text)
