"""Top-p and min-p: what may be sampled, and that everything after sampling is taken over the same tokens."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_ppo import KINDS, TinyPPO, made_up_targets, section_of, tiny_lm

from rlhf.errors import TrainingError
from rlhf.ppo.engines.graph import GraphEngine
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.engines.sampling import sample_tokens, support_of
from rlhf.ppo.engines.supports import ids_of, packed, unpacked
from rlhf.ppo.episodes import pad_supports
from rlhf.ppo.losses import token_logprobs
from rlhf.ppo.noise import sampling_noise

PROMPTS = [[3, 7, 1, 9, 4], [2], [5, 5, 8], [1, 2, 3, 4, 5, 6, 7], [11, 12], [9, 9]]
CUTS = [(0.7, 0.0), (1.0, 0.2), (0.9, 0.1)]


def nucleus(probabilities, top_p, min_p):
    """Take the likeliest token, then the next, until there is top_p of it; then drop those below min_p x the first."""
    order = sorted(range(len(probabilities)), key=lambda token: (-probabilities[token], token))
    taken, total = [], 0.0
    for token in order:
        if top_p < 1 and total >= top_p:
            break
        taken.append(token)
        total += probabilities[token]
    return sorted(token for token in taken if probabilities[token] >= min_p * probabilities[order[0]])


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


@pytest.mark.parametrize(
    ("top_p", "min_p", "expected"),
    [
        (0.9, 0.0, [0, 1, 2]),  # .5 + .3 = .8 is not enough
        (0.7, 0.0, [1, 2]),
        (0.4, 0.0, [2]),
        (1.0, 0.25, [0, 1, 2]),  # at least .125
        (1.0, 0.5, [1, 2]),  # at least .25
        (0.7, 0.25, [1, 2]),
        (0.9, 0.5, [1, 2]),
        (1e-9, 0.999, [2]),
    ],
)
def test_supports_worked_by_hand(top_p, min_p, expected):
    support = support_of(torch.tensor([[0.15, 0.3, 0.5, 0.05]]), top_p=top_p, min_p=min_p)
    assert support[0].nonzero().flatten().tolist() == expected


def test_of_equally_likely_tokens_top_p_keeps_the_lower_ids():
    support = support_of(torch.full((1, 100), 0.01), top_p=0.255, min_p=0.0)
    assert support[0].nonzero().flatten().tolist() == list(range(26))


def test_draws_cover_the_support_in_proportion_and_nothing_else():
    """Chi-square over 3 tokens: 13.82 is the 99.9% quantile at 2 degrees of freedom."""
    logits = torch.tensor([0.15, 0.3, 0.5, 0.05]).log() * 1.3
    noise = torch.from_numpy(sampling_noise(0, 0, list(range(6000)), [0] * 6000, 1, stream=0))[:, 0]
    draw = sample_tokens(logits.expand(6000, 4), noise, 1.3, top_p=0.9)
    counts = np.bincount(draw.tokens.numpy(), minlength=4)
    assert counts[3] == 0
    expected = 6000 * np.array([0.15, 0.3, 0.5]) / 0.95
    assert ((counts[:3] - expected) ** 2 / expected).sum() < 13.82
    logprobs = np.log(np.array([0.15, 0.3, 0.5]) / 0.95)[draw.tokens.numpy()]
    assert np.allclose(draw.logprobs.numpy(), logprobs, atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1 - 2**-24])
def test_the_ends_of_the_noise_stay_inside_the_support(noise):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, 50, generator=generator)
    draw = sample_tokens(logits, torch.full((400,), noise), 0.7, top_p=0.6)
    assert draw.support is not None
    assert draw.support.gather(1, draw.tokens[:, None]).all()
    assert torch.isfinite(draw.logprobs).all()
    end = draw.support.int().argmax(1) if noise == 0 else 49 - draw.support.flip(1).int().argmax(1)
    assert torch.equal(draw.tokens, end)


@torch.no_grad()
def naive(model, prompt, noise, temperature, top_p, min_p, stops):
    """Token by token without cache, in float64: (token, support, log-probability over the support)."""
    rows, response = [], []
    for number in noise.tolist():
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, -1].double().numpy()
        probabilities = softmax(logits / temperature)
        ids = nucleus(probabilities, top_p, min_p)
        inside = probabilities[ids] / probabilities[ids].sum()
        place = int(np.flatnonzero(np.cumsum(inside) > number)[0])
        rows.append((ids[place], ids, float(np.log(inside[place]))))
        response.append(ids[place])
        if response[-1] in stops:
            break
    return rows


@pytest.mark.parametrize(
    "engine", [HFEngine(), GraphEngine(num_slots=4, dtype=torch.float32)], ids=["hf", "graph"]
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top_p", "min_p"), CUTS)
def test_the_engine_samples_from_the_support_and_says_which_it_was(engine, kind, top_p, min_p):
    model, noise, stops = (
        tiny_lm(kind),
        sampling_noise(3, 0, list(range(6)), [0] * 6, 9, stream=0),
        (3, 4, 13, 14, 17, 22),
    )
    out = engine.generate(
        model,
        PROMPTS,
        torch.from_numpy(noise),
        temperature=0.8,
        stop_ids=stops,
        top_p=top_p,
        min_p=min_p,
    )
    assert out.support is not None
    lengths = set()
    for row, prompt in enumerate(PROMPTS):
        expected = naive(model, prompt, noise[row], 0.8, top_p, min_p, stops)
        lengths.add(len(expected))
        assert out.response_ids[row][out.response_mask[row]].tolist() == [token for token, _, _ in expected]
        assert [part.tolist() for part in out.support[row]] == [ids for _, ids, _ in expected]
        assert {part.dtype for part in out.support[row]} == {np.dtype(np.int32)}
        logprobs = out.logprobs[row, : len(expected)].tolist()
        assert logprobs == pytest.approx([logprob for _, _, logprob in expected], abs=1e-4)
    assert len(lengths) > 1, "the rows must end at different places"


@pytest.mark.parametrize("vocabulary", [1, 7, 8, 9, 23])
def test_supports_come_back_from_their_bits(vocabulary):
    rng = np.random.default_rng(vocabulary)
    support = torch.from_numpy(rng.random((40, vocabulary)) < 0.4)
    support[3] = False
    bits = packed(support)
    assert bits.shape == (40, -(-vocabulary // 8))
    expected = np.packbits(support.numpy(), axis=1, bitorder="little")
    assert np.array_equal(bits.numpy(), expected)
    assert torch.equal(unpacked(bits, vocabulary), support)
    assert [ids.tolist() for ids in ids_of(support)] == [np.flatnonzero(row).tolist() for row in support]


def made_up(seed=0, tokens=11, states=6, vocabulary=29):
    """Tokens with supports of 1 to 8 ids, each with its target inside."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, states, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, states, generator=generator, requires_grad=True)
    supports = [np.sort(rng.choice(vocabulary, 1 + n % 8, replace=False)) for n in range(tokens)]
    targets = torch.tensor([int(rng.choice(ids)) for ids in supports])
    return hidden, weight, targets, supports


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_log_probabilities_entropies_and_gradients_over_the_support_equal_float64(chunk_tokens):
    hidden, weight, targets, supports = made_up()
    padded = pad_supports([supports], len(supports))[0]
    mask = torch.ones(len(supports), dtype=torch.bool)
    mask[4] = False
    got = token_logprobs(
        hidden, weight, targets, temperature=0.7, mask=mask, chunk_tokens=chunk_tokens, support=padded
    )
    wanted_logprobs, wanted_entropy = [], []
    for n, ids in enumerate(supports):
        logits = (weight.double()[torch.from_numpy(ids)] @ hidden[n].double()) / 0.7
        probabilities = torch.softmax(logits, dim=0)
        kept = float(n != 4)
        wanted_logprobs.append(kept * probabilities[ids.tolist().index(int(targets[n]))].log())
        wanted_entropy.append(kept * -(probabilities * probabilities.log()).sum())
    wanted = torch.stack(wanted_logprobs), torch.stack(wanted_entropy)
    coefficients = torch.linspace(-1, 2, len(supports)), torch.linspace(1, -2, len(supports))
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
    ours, theirs = (
        torch.autograd.grad(
            sum((c * x).sum() for c, x in zip(coefficients, parts, strict=True)), (hidden, weight)
        )
        for parts in (got, wanted)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_support_of_one_token_is_certain_and_has_no_gradient():
    hidden, weight = torch.randn(1, 2, 6, requires_grad=True), torch.randn(29, 6, requires_grad=True)
    support = torch.tensor([[[5, -1, -1], [7, -1, -1]]])
    logprobs, entropy = token_logprobs(
        hidden,
        weight,
        torch.tensor([[5, 7]]),
        temperature=0.3,
        mask=torch.ones(1, 2, dtype=torch.bool),
        chunk_tokens=1,
        support=support,
    )
    assert logprobs.tolist() == entropy.tolist() == [[0.0, 0.0]]
    for gradient in torch.autograd.grad(logprobs.sum() + entropy.sum(), (hidden, weight)):
        assert not gradient.any()


def test_a_target_outside_its_support_and_a_support_of_another_shape_are_refused():
    hidden, weight, targets, supports = made_up()
    padded = pad_supports([supports], len(supports))[0]
    mask = torch.ones(len(supports), dtype=torch.bool)
    wrong = targets.clone()
    wrong[3] = next(token for token in range(29) if token not in supports[3])
    with pytest.raises(ValueError, match="not in the support"):
        token_logprobs(hidden, weight, wrong, temperature=1.0, mask=mask, chunk_tokens=4, support=padded)
    mask[3] = False  # what lies outside the mask is not read
    token_logprobs(hidden, weight, wrong, temperature=1.0, mask=mask, chunk_tokens=4, support=padded)
    with pytest.raises(ValueError, match="support has shape"):
        token_logprobs(
            hidden, weight, targets, temperature=1.0, mask=mask, chunk_tokens=4, support=padded[1:]
        )


def sampling(**cuts):
    return section_of(
        per_device_batch_size=3,
        num_minibatches=2,
        sampling={"max_new_tokens": 7, "temperature": 0.7, **cuts},
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [{"top_p": 0.7}, {"min_p": 0.1}])
def test_line_10_old_and_reference_log_probabilities_are_taken_over_the_stored_support(kind, cuts):
    ppo = TinyPPO(sampling(**cuts), kind=kind)
    rollout = ppo.collect()
    sizes = {len(ids) for episode in rollout.episodes for ids in episode.support}
    assert min(sizes) < 6
    assert len(sizes) > 2
    for episode in rollout.episodes:
        start, length = len(episode.prompt_ids), len(episode.response_ids)
        assert len(episode.support) == length
        ids = torch.tensor([episode.prompt_ids + episode.response_ids])
        for model, logprobs in (
            (ppo.policy, episode.logprobs),
            (ppo.collector.reference, episode.ref_logprobs),
        ):
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0].double().numpy() / 0.7
            for t in range(length):
                support = episode.support[t].tolist()
                inside = softmax(logits[start + t - 1][support])
                expected = np.log(inside[support.index(episode.response_ids[t])])
                assert logprobs[t] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("cuts", [{"top_p": 0.7}, {"min_p": 0.1}])
def test_line_11_the_ratio_is_1_on_the_first_minibatch_under_a_cut_support(cuts):
    ppo = TinyPPO(sampling(**cuts))
    rollout = ppo.collect()
    stats = ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    assert stats["val/first_log_ratio_abs"] < 1e-5


def test_an_update_that_forgot_the_support_is_found():
    ppo = TinyPPO(sampling(top_p=0.7))
    rollout = ppo.collect()
    episodes = [dataclasses.replace(episode, support=None) for episode in rollout.episodes]
    with pytest.raises(TrainingError, match="ratio"):
        ppo.updater.update(dataclasses.replace(rollout, episodes=episodes), *made_up_targets(rollout), 0)


def test_without_top_p_and_min_p_there_is_no_support():
    rollout = TinyPPO(sampling()).collect()
    assert all(episode.support is None for episode in rollout.episodes)
    assert "support" not in rollout.micro_batch([0, 1], torch.device("cpu"))


def test_line_10_values_are_those_of_the_same_responses_without_a_support():
    ppo = TinyPPO(sampling(top_p=0.7))
    rollout = ppo.collect()
    batch = rollout.micro_batch([0, 1, 2], torch.device("cpu"))
    with torch.no_grad():
        inputs = batch["input_ids"], batch["attention_mask"], batch["response_mask"]
        cut, whole = ppo.model(*inputs, support=batch["support"]), ppo.model(*inputs)
    assert torch.equal(cut["values"], whole["values"])
    assert not torch.equal(cut["logprobs"], whole["logprobs"])
