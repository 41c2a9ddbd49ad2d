"""Stop texts against plain search in the response's text, token by token."""

from functools import partial

import pytest
import torch
from tiny_ppo import EOS, VOCAB, tiny_lm
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from rlhf.errors import UsageError
from rlhf.ppo.engines.graph import GraphEngine
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.engines.stop_texts import StopTexts
from rlhf.ppo.noise import sampling_noise

LETTERS = "abcdef"
PAIRS = ["ab", "bc", "cd", "de", "ef", "fa", "ac", "bd", "ce", "df", "ea", "fb", "ad", "be", "cf"]
TEXTS = [*LETTERS, *PAIRS, "abc", "."]
"""What each token says; "." is EOS."""
PROMPTS = [[3, 7, 1, 9, 4], [2], [5, 5, 8], [1, 2, 3, 4, 5, 6, 7], [11, 12], [9, 9]]
NUM_TOKENS = 19


def tokenizer():
    merges = [*((pair[0], pair[1]) for pair in PAIRS), ("ab", "c")]
    bpe = models.BPE(vocab={text: number for number, text in enumerate(TEXTS)}, merges=merges)
    backend = Tokenizer(bpe)
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def say(ids):
    return "".join(TEXTS[token] for token in ids)


def noise_of(num_tokens=NUM_TOKENS):
    return sampling_noise(3, 0, list(range(6)), [0] * 6, num_tokens, stream=0)


def sample_with(kind, stop, stop_ids=(EOS,), num_tokens=NUM_TOKENS):
    """Responses as lists, and how each ended."""
    texts = StopTexts(tokenizer(), stop) if stop else None
    engine = HFEngine(stop_texts=texts)
    if kind != "hf":
        engine = GraphEngine(num_slots=4, dtype=torch.float32, stop_texts=texts)
    noise = torch.from_numpy(noise_of(num_tokens))
    out = engine.generate(tiny_lm(), PROMPTS, noise, temperature=0.8, stop_ids=stop_ids)
    rows = [row[kept].tolist() for row, kept in zip(out.response_ids, out.response_mask, strict=True)]
    return rows, out.finish_reasons


@pytest.fixture(params=["hf", "graph", "graph, seen at once"])
def sample(request, monkeypatch):
    """`sample_with` each of the engines."""
    if request.param == "graph, seen at once":
        monkeypatch.setattr("rlhf.ppo.engines.graph._AHEAD", 0)
    return partial(sample_with, request.param)


def cut(row, stop, stop_ids=(EOS,)):
    """The response up to the first token that ends it, and why."""
    for t, token in enumerate(row):
        if token in stop_ids:
            return row[: t + 1], "eos"
        if any(text in say(row[: t + 1]) for text in stop):
            return row[: t + 1], "stop"
    return row, "length"


def test_the_tokenizer_of_this_test_says_what_the_table_says():
    assert len(TEXTS) == VOCAB
    assert TEXTS[EOS] == "."
    assert [tokenizer().decode([n]) for n in range(VOCAB)] == TEXTS


@pytest.mark.parametrize(
    ("ids", "stop", "expected"),
    [
        ([0, 1], ["ab"], True),  # two tokens make it
        ([6], ["ab"], True),  # one token is it
        ([21], ["ab"], True),  # "abc" reaches past its end
        ([10, 1], ["ab"], False),  # "efb" lacks it
        ([16, 1, 2], ["ab"], True),  # "ea" + "b" made it one token ago, and a response stops then
        ([16, 7], ["ab"], True),  # "ea" + "bc"
        ([0], ["ab"], False),
        ([1, 0], ["ab", "ba"], True),
        ([2, 3, 4, 5], ["cdef"], True),
        ([2, 3, 4], ["cdef"], False),
    ],
)
def test_texts_across_token_boundaries(ids, stop, expected):
    found = [
        bool(StopTexts(tokenizer(), stop).completed(torch.tensor([ids[:n]]))) for n in range(1, len(ids) + 1)
    ]
    assert any(found) == expected == any(text in say(ids) for text in stop)


@pytest.mark.parametrize("stop", [["ab"], ["e"], ["cd", "fb", "aa"], ["eb", "a"]])
def test_responses_end_with_the_token_that_completes_a_stop_text(stop, sample):
    free, _ = sample([], stop_ids=(10_000,))
    expected = [cut(row, stop) for row in free]
    assert "stop" in [reason for _, reason in expected]
    rows, reasons = sample(stop)
    assert rows == [row for row, _ in expected]
    assert reasons == [reason for _, reason in expected]


def test_line_14_the_prompts_text_does_not_count(sample):
    free, _ = sample([], stop_ids=(10_000,))
    seam = [say(prompt)[-1] + say(row)[0] for prompt, row in zip(PROMPTS, free, strict=True)]
    inside = [seam[row] in say(free[row]) for row in range(6)]
    row = inside.index(False)
    rows, reasons = sample([seam[row]], stop_ids=(10_000,))
    assert rows[row] == free[row]
    assert reasons[row] == "length"


def test_a_stop_token_that_completes_a_stop_text_is_an_end_of_its_own(sample):
    free, _ = sample([], stop_ids=(10_000,))
    token = free[0][3]
    assert token not in free[0][:3]
    text = say(free[0][:4])
    assert sample([text], stop_ids=(10_000,))[1][0] == "stop"
    rows, reasons = sample([text], stop_ids=(token,))
    assert rows[0] == free[0][:4]
    assert reasons[0] == "eos"


def test_what_a_row_draws_after_its_stop_text_does_not_count(sample):
    """A row that has ended stays in the batch while few have; here it goes on to draw a stop token."""
    free, _ = sample([], stop_ids=(10_000,))
    row, token = next(
        (row, free[row][t])
        for row in range(6)
        for t in range(3, NUM_TOKENS)
        if free[row][t] not in free[row][:3]
        and not any(free[row][t] in other[: t + 1] for other in free if other is not free[row])
    )
    text = say(free[row][:3])
    assert sum(text in say(other) for other in free) == 1
    rows, reasons = sample([text], stop_ids=(token,))
    assert rows[row] == free[row][:3]
    assert reasons[row] == "stop"


def test_a_stop_text_that_the_last_possible_token_completes_is_no_cut(sample):
    free, _ = sample([], stop_ids=(10_000,))
    text = say(free[0][:4])
    assert sample([text], stop_ids=(10_000,), num_tokens=4)[1][0] == "stop"
    assert sample([text], stop_ids=(10_000,), num_tokens=3)[1][0] == "length"


@pytest.mark.parametrize("stop", [[], [""], ["ab", ""], ["XYZ"]])
def test_stop_texts_that_say_nothing_or_cannot_be_written_are_refused(stop):
    with pytest.raises(UsageError, match=r"sampling\.stop"):
        StopTexts(tokenizer(), stop)
