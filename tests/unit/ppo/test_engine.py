"""Both engines against a loop without cache, padding or batch: one full forward pass a token.

`graph` runs here without capture: the same steps, called one by one.
"""

import numpy as np
import pytest
import torch
from tiny_ppo import EOS, KINDS, VOCAB, tiny_lm

from rlhf.models.forward import pad_left
from rlhf.ppo.actor_critic import response_logprobs
from rlhf.ppo.engines.base import GenerationEngine
from rlhf.ppo.engines.graph import GraphEngine
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.noise import sampling_noise

CPU = torch.device("cpu")
PROMPTS = [[3, 7, 1, 9, 4], [2], [5, 5, 8], [1, 2, 3, 4, 5, 6, 7], [11, 12], [9, 9]]
NUM_TOKENS = 9
NEVER = (10_000,)


def noise_of(rows, num_tokens=NUM_TOKENS):
    return sampling_noise(3, 0, list(rows), [0] * len(rows), num_tokens, stream=0)


@torch.no_grad()
def naive(model, prompt, noise, temperature, stops):
    """Sample token by token: the first token whose cumulative probability exceeds the noise."""
    response, logprobs = [], []
    for number in noise.tolist():
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, -1].double() / temperature
        probabilities = torch.softmax(logits, dim=-1).numpy()
        token = int(np.flatnonzero(np.cumsum(probabilities) > number)[0])
        response.append(token)
        logprobs.append(float(np.log(probabilities[token])))
        if token in stops:
            break
    return response, logprobs


def graph(num_slots):
    return GraphEngine(num_slots=num_slots, dtype=torch.float32)


# More rows than slots: prompts wait. More slots than rows: most are idle.
ENGINES = {
    "hf": HFEngine,
    "hf-2": lambda: HFEngine(batch_size=2),
    "graph-2": lambda: graph(2),
    "graph-3": lambda: graph(3),
    "graph-40": lambda: graph(40),
}


@pytest.fixture(params=list(ENGINES))
def engine(request) -> GenerationEngine:
    return ENGINES[request.param]()


def sample(engine, model, prompts, noise, *, temperature=0.8, stops=NEVER):
    """The engine's responses as lists, and its log-probabilities."""
    out = engine.generate(model, prompts, torch.from_numpy(noise), temperature=temperature, stop_ids=stops)
    rows = [row[kept].tolist() for row, kept in zip(out.response_ids, out.response_mask, strict=True)]
    return rows, out


@pytest.mark.parametrize("kind", KINDS)
def test_samples_what_a_loop_without_cache_samples(engine, kind):
    model, noise = tiny_lm(kind), noise_of(range(6))
    expected = [naive(model, p, n, 0.8, (EOS, 4)) for p, n in zip(PROMPTS, noise, strict=True)]
    assert len({len(row) for row, _ in expected}) > 2, "the rows must end at different places"
    rows, out = sample(engine, model, PROMPTS, noise, stops=(EOS, 4))
    assert rows == [row for row, _ in expected]
    for row, (_, logprobs) in enumerate(expected):
        assert out.logprobs[row, : len(logprobs)].tolist() == pytest.approx(logprobs, abs=1e-4)
        assert not out.logprobs[row, len(logprobs) :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_line_02_padding_batch_size_and_row_order_change_nothing(engine, kind):
    model, noise = tiny_lm(kind), noise_of(range(6))
    whole, _ = sample(engine, model, PROMPTS, noise, stops=(EOS, 4))
    alone = [sample(engine, model, [PROMPTS[r]], noise[r : r + 1], stops=(EOS, 4))[0][0] for r in range(6)]
    pairs = [
        sample(engine, model, PROMPTS[r : r + 2], noise[r : r + 2], stops=(EOS, 4))[0] for r in (0, 2, 4)
    ]
    order = [4, 0, 5, 2, 1, 3]
    shuffled, _ = sample(engine, model, [PROMPTS[r] for r in order], noise[order], stops=(EOS, 4))
    beside_long, _ = sample(
        engine,
        model,
        [*PROMPTS, [8] * 30],
        noise_of(range(7)),
        stops=(EOS, 4),
    )
    assert alone == whole
    assert [row for pair in pairs for row in pair] == whole
    assert [shuffled[order.index(r)] for r in range(6)] == whole
    assert beside_long[:6] == whole


def test_line_01_pad_id_equal_to_eos_changes_nothing(engine):
    """With EOS inside a prompt and at the end of one, where a mask made of ids would be wrong."""
    prompts = [[3, EOS, 1], [2, 7, 5, EOS], [EOS], [4, 4, 1, 9, 3]]
    model, noise = tiny_lm("gpt2"), noise_of(range(4))
    model.config.pad_token_id = model.config.eos_token_id = EOS
    expected = [naive(model, p, n, 0.8, (EOS,))[0] for p, n in zip(prompts, noise, strict=True)]
    assert sample(engine, model, prompts, noise, stops=(EOS,))[0] == expected


def test_line_12_rows_that_end_at_once_and_rows_that_never_end(engine):
    model, noise = tiny_lm(), noise_of(range(6))
    free, _ = sample(engine, model, PROMPTS, noise)
    assert [len(row) for row in free] == [NUM_TOKENS] * 6
    first = free[2][0]
    rows, out = sample(engine, model, PROMPTS, noise, stops=(first,))
    assert rows[2] == [first]
    # up to the stop token, and with it, nothing differs from the free sample; behind it there is nothing
    assert rows == [row[: row.index(first) + 1] if first in row else row for row in free]
    assert not out.response_ids[2, 1:].any()
    everything = tuple(range(VOCAB))
    rows, out = sample(engine, model, PROMPTS, noise, stops=everything)
    assert rows == [row[:1] for row in free]
    assert out.response_ids.shape == (6, 1)


def test_line_09_the_models_generation_config_is_not_read(engine):
    noise = noise_of(range(6))
    expected, _ = sample(engine, tiny_lm(), PROMPTS, noise, stops=(EOS,))
    model = tiny_lm()
    hostile = {
        "do_sample": True, "top_k": 1, "top_p": 0.1, "temperature": 0.1, "repetition_penalty": 5.0,
        "min_new_tokens": 9, "max_new_tokens": 1, "num_beams": 4, "eos_token_id": 3, "suppress_tokens": [1, 2],
    }  # fmt: skip
    for name, value in hostile.items():
        setattr(model.generation_config, name, value)
    assert sample(engine, model, PROMPTS, noise, stops=(EOS,))[0] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_line_10_its_log_probabilities_are_those_of_the_training_pass(engine, kind):
    model = tiny_lm(kind)
    _, out = sample(engine, model, PROMPTS, noise_of(range(6)), temperature=0.6, stops=(EOS, 4))
    ids, mask = pad_left(PROMPTS, CPU)
    with torch.no_grad():
        logprobs, _ = response_logprobs(
            model,
            torch.cat([ids, out.response_ids], dim=1),
            torch.cat([mask, out.response_mask], dim=1),
            out.response_mask,
            temperature=0.6,
        )
    assert torch.allclose(logprobs, out.logprobs, atol=1e-4, rtol=0)


def test_temperature_0_takes_the_likeliest_token(engine):
    model = tiny_lm()
    rows, _ = sample(engine, model, PROMPTS, noise_of(range(6)), temperature=0.0)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + row])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist() == row


@pytest.mark.parametrize("engine", [HFEngine(), graph(25_000)], ids=["hf", "graph"])
def test_frequencies_follow_the_distribution(engine):
    """Chi-square over 8 tokens and 100,000 samples: 24.32 is the 99.9% quantile at 7 degrees of freedom."""
    model, count = tiny_lm("gpt2", vocab=8), 100_000
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[2, 5]])).logits[0, -1].double()
    expected = torch.softmax(logits / 1.3, dim=-1).numpy() * count
    assert expected.min() > 5
    noise = np.random.default_rng(5).random((count, 1), dtype=np.float32)
    rows, _ = sample(engine, model, [[2, 5]] * count, noise, temperature=1.3)
    counts = np.bincount([row[0] for row in rows], minlength=8)
    assert ((counts - expected) ** 2 / expected).sum() < 24.32
    flat = np.full(8, count / 8)
    assert ((counts - flat) ** 2 / flat).sum() > 24.32, "a uniform sampler would pass too"


def test_eager_attention_samples_the_same_tokens():
    """It adds its mask to the scores, where PyTorch's own attention asks which columns to look at."""
    model, noise, found = tiny_lm(), torch.from_numpy(noise_of(range(len(PROMPTS)))), []
    for kind in ("sdpa", "eager"):
        model.set_attn_implementation(kind)
        found.append(HFEngine().generate(model, PROMPTS, noise, temperature=0.8, stop_ids=NEVER))
    assert torch.equal(found[0].response_ids, found[1].response_ids)
    assert torch.allclose(found[0].logprobs, found[1].logprobs, atol=1e-5, rtol=0)
