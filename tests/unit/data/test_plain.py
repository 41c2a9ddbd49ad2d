"""What passes as plain is valid; and what is plainly valid passes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.plain import is_plain
from rlhf_schemas import RECORDS

KINDS = ("sft", "preference", "prompt")
FIELDS = ("prompt", "completion", "text", "messages", "chosen", "rejected", "margin", "metadata", "id")
TEXTS = ("a", "b", "é", "", " ", "\n\t", "\x1c", "\u2003", "\ud83d", "x\udc00y", "漢", "\x00", "\ufeff")
VALUES = st.sampled_from([*TEXTS, None, 1, 0.5, True, ["a"], {"a": 1}, [{"role": "user", "content": "a"}]])


@settings(max_examples=3000, derandomize=True, deadline=None)
@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
def test_what_is_plain_is_valid(kind, fields):
    if is_plain(fields, kind):
        RECORDS[kind].model_validate(fields)


@settings(max_examples=2000, derandomize=True, deadline=None)
@given(st.sampled_from(TEXTS), st.sampled_from(TEXTS), st.sampled_from(TEXTS))
def test_pairs_of_texts_are_plain_or_refused(prompt, chosen, rejected):
    fields = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    blank = any(not text.strip() for text in fields.values())
    broken = any("\ud800" <= letter <= "\udfff" for text in fields.values() for letter in text)
    assert is_plain(fields, "preference") == (not blank and not broken and chosen != rejected)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("sft", {"prompt": "a", "completion": "b"}),
        ("sft", {"text": "a"}),
        ("prompt", {"prompt": "a"}),
        ("preference", {"chosen": "a", "rejected": "b"}),
    ],
)
def test_every_kind_has_its_plain_rows(kind, fields):
    assert is_plain(fields, kind)
    assert not is_plain(fields | {"margin": 1.0}, kind)
