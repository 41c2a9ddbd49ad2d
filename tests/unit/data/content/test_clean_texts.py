"""Nothing is found where nothing is."""

import pytest

from rlhf.data.content import ContentChecks
from rlhf.data.content.checks import FINDERS
from rlhf.data.place import Place
from rlhf.recipe.checks import ChecksSection
from rlhf_schemas import Message, PreferenceRecord, PromptRecord, RolloutRecord, SFTRecord
from tests.unit.data.content.clean_texts import CLEAN_TEXTS

PLACE = Place("rows.jsonl", 7)


@pytest.mark.parametrize("text", CLEAN_TEXTS)
def test_clean_text_has_no_finding(text: str) -> None:
    record = SFTRecord(text=text)
    assert ContentChecks(ChecksSection(), "sft").find(record, PLACE) == []


@pytest.mark.parametrize("text", CLEAN_TEXTS)
@pytest.mark.parametrize("code", FINDERS)
def test_no_search_finds_anything_in_clean_text_without_the_screen(code: str, text: str) -> None:
    assert FINDERS[code](text) is None


def test_all_clean_texts_as_one_long_text_have_no_finding() -> None:
    text = "\n".join(CLEAN_TEXTS)
    faults = ContentChecks(ChecksSection(), "prompt").find(PromptRecord(prompt=text), PLACE)
    assert faults == []


def test_clean_records_of_every_kind_have_no_finding() -> None:
    messages = [Message(role="user", content="Hello?"), Message(role="assistant", content="Hi.")]
    rollout = RolloutRecord(
        prompt="Hello?", response="", prompt_ids=[5], response_ids=[2], logprobs=[-0.5], ref_logprobs=[-0.5],
        values=[0.0], rewards=[1.0], advantages=[1.0], returns=[1.0], score=1.0, finish_reason="eos",
        policy="p@1", reward_model="r@1", step=0, seed=0,
    )  # fmt: skip
    pair = PreferenceRecord(prompt="Hello?", chosen="Hi.", rejected="What?")
    assert ContentChecks(ChecksSection(), "sft").find(SFTRecord(messages=messages), PLACE) == []
    assert ContentChecks(ChecksSection(), "rollout").find(rollout, PLACE) == []
    assert ContentChecks(ChecksSection(), "preference").find(pair, PLACE) == []
