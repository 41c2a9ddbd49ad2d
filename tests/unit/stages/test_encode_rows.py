"""Outcomes in the order of the rows, whoever makes them."""

import os
import signal
from dataclasses import dataclass
from typing import Any

import pytest
from encoded import TOKENIZER, sft_section

from rlhf.data import Located, Place
from rlhf.errors import ModelError, StageError
from rlhf.stages.tokens.encode import encode_rows
from rlhf.stages.tokens.encoders import demonstration_encoder
from rlhf.stages.tokens.outcome import Outcome
from rlhf_schemas import SFTRecord


def located(count):
    for row in range(1, count + 1):
        yield Located(
            SFTRecord(prompt=f"is it {row}?", completion=" it is." * (row % 7 + 1)), Place("x", row, row)
        )


def test_outcomes_are_the_same_from_one_process_and_from_several():
    encoder = demonstration_encoder(TOKENIZER, sft_section(max_length=30, over_length="drop"), chat=True)
    alone = list(encode_rows(located(600), encoder, num_processes=1))
    together = list(encode_rows(located(600), encoder, num_processes=2, patience_seconds=0))
    assert together == alone
    assert [place.line for place, _ in alone] == list(range(1, 601))
    assert {outcome.verdict for _, outcome in alone} == {"whole", "too_long"}


def test_no_process_is_started_for_what_takes_no_time(monkeypatch):
    monkeypatch.setattr("rlhf.stages.tokens.encode.ProcessPoolExecutor", None)
    encoder = demonstration_encoder(TOKENIZER, sft_section(), chat=True)
    assert len(list(encode_rows(located(50), encoder, num_processes=8))) == 50


@dataclass(frozen=True)
class Failing:
    """Fails at the second batch, which another process has."""

    error: str
    tokenizer: Any = None

    def __call__(self, record):
        if record.prompt == "is it 200?":
            if self.error == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ModelError("the template rewrites", "Take another.")
        return Outcome("whole", record.prompt, 1)

    def describe(self):
        return {}


@pytest.mark.parametrize(("error", "kind"), [("killed", StageError), ("raised", ModelError)])
def test_an_error_in_another_process_ends_the_stream(error, kind):
    with pytest.raises(kind) as caught:
        list(encode_rows(located(300), Failing(error), num_processes=2, patience_seconds=0))
    assert caught.value.remedy
