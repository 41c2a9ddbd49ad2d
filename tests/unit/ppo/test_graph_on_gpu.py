"""The `graph` engine where it captures: CUDA graphs give the tokens of `hf`, captured graphs are used again."""

import copy
import itertools

import pytest
import torch
import torch._inductor.config as inductor
from test_graph_engine import both, family, listed, noise_of, ragged_prompts, same
from test_stop_texts import tokenizer
from tiny_ppo import tiny_lm
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf.models.forward import pad_left
from rlhf.models.load import TESTED_FAMILIES
from rlhf.ppo.actor_critic import response_logprobs
from rlhf.ppo.engines.graph import GraphEngine
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.engines.stop_texts import StopTexts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    """TF32 would round differently in products of other shapes."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.mark.parametrize("model_type", TESTED_FAMILIES)
def test_captured_it_samples_the_same_tokens(model_type):
    model, engine = family(model_type).cuda(), GraphEngine(num_slots=16, dtype=torch.float32)
    prompts, noise = ragged_prompts(70, 20), noise_of(70, 40)
    same(*both(model, prompts, noise, engine, stop_ids=(22, 4)))
    captured = engine.num_graphs
    assert captured > 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    same(*both(model, prompts, noise, engine, stop_ids=(22, 4)))
    assert engine.num_graphs >= captured


def test_a_second_call_of_the_same_kind_captures_nothing():
    model, engine = family("qwen2").cuda(), GraphEngine(num_slots=16, dtype=torch.bfloat16)
    settings = {"temperature": 1.0, "stop_ids": ()}
    for _ in range(2):
        engine.generate(model, ragged_prompts(16, 9), noise_of(16, 64), **settings)
    captured = engine.num_graphs
    engine.generate(model, ragged_prompts(16, 9, seed=1), noise_of(16, 64, seed=1), **settings)
    assert engine.num_graphs == captured > 0


def test_compiled_it_samples_the_same_tokens():
    engine = GraphEngine(num_slots=16, dtype=torch.float32, compiled=True)
    same(*both(family("qwen2").cuda(), ragged_prompts(70, 20), noise_of(70, 40), engine, stop_ids=(22, 4)))


@pytest.mark.parametrize("cuts", [{"top_p": 0.7}, {"min_p": 0.1}])
def test_captured_it_samples_from_the_same_part_of_the_vocabulary(cuts):
    engine = GraphEngine(num_slots=16, dtype=torch.float32)
    hf, graph = both(tiny_lm().cuda(), ragged_prompts(70, 20), noise_of(70, 40), engine, **cuts)
    assert engine.num_graphs > 0
    same(hf, graph)
    assert listed(graph) == listed(hf)


def test_stop_texts_end_the_same_responses():
    texts = StopTexts(tokenizer(), ["ab", "e"])
    model, prompts, noise = tiny_lm().cuda(), ragged_prompts(70, 20), noise_of(70, 40)
    settings = {"temperature": 1.0, "stop_ids": (4,)}
    by_hf = HFEngine(stop_texts=texts).generate(model, prompts, noise, **settings)
    engine = GraphEngine(num_slots=16, dtype=torch.float32, stop_texts=texts)
    by_graph = engine.generate(model, prompts, noise, **settings)
    assert engine.num_graphs > 0
    assert {"stop", "eos"} <= set(by_hf.finish_reasons)
    same(by_hf, by_graph)


def wide_model(device):
    """A model in bfloat16 whose products are as wide as a real one's, and the same weights in float32."""
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=4096,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=12,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).to(device)
    with torch.no_grad():
        model.lm_head.weight.mul_(5)  # logits of a deviation of about 3, as trained models have
    return model, copy.deepcopy(model).float()


def rounding_of(engines, num_prompts, num_tokens, device):
    """Root mean squares of differences of log-probabilities: of each two engines up to the first token that differs in a
    row, and of each from float32 on its own tokens."""
    model, exact = wide_model(device)
    prompts = [[1 + token for token in row] for row in ragged_prompts(num_prompts, 60)]
    made = {
        name: engine.generate(model, prompts, noise_of(num_prompts, num_tokens), temperature=1.0, stop_ids=())
        for name, engine in engines.items()
    }

    def rms(difference):
        return float(difference.square().mean().sqrt())

    def between(one, two):
        same = (one.response_ids == two.response_ids).long().cumprod(dim=1).bool()
        assert same.sum() > num_prompts
        return rms((one.logprobs - two.logprobs)[same])

    def error(generation):
        rows = [prompt + row for prompt, row in zip(prompts, generation.response_ids.tolist(), strict=True)]
        ids, mask = pad_left(rows, exact.device)
        response_mask = torch.ones_like(generation.response_ids).bool()
        with torch.no_grad():
            logprobs, _ = response_logprobs(exact, ids, mask, response_mask, temperature=1.0)
        return rms(generation.logprobs - logprobs)

    apart = {(a, b): between(made[a], made[b]) for a, b in itertools.combinations(made, 2)}
    errors = {name: error(generation) for name, generation in made.items()}
    print({" beside ".join(pair): round(value, 5) for pair, value in apart.items()})
    print({name: round(value, 5) for name, value in errors.items()}, "from float32")
    return apart, errors


HF = {f"hf {size}": HFEngine(batch_size=size) for size in (256, 64, 8)}
GRAPH = {
    f"graph{' compiled' * compiled}": GraphEngine(num_slots=256, dtype=torch.bfloat16, compiled=compiled)
    for compiled in (False, True)
}
ROUNDED = "graph compiled, rounded between operators"


class Rounded(GraphEngine):
    """Compiled, with a rounding after each operator of PyTorch, as without a compiler, in place of one a fused kernel."""

    def generate(self, *args, **kwargs):
        torch.compiler.reset()
        with inductor.patch(emulate_precision_casts=True):
            generation = super().generate(*args, **kwargs)
        torch.compiler.reset()
        return generation


@pytest.fixture(scope="module")
def rounding():
    engines = HF | GRAPH | {ROUNDED: Rounded(num_slots=256, dtype=torch.bfloat16, compiled=True)}
    return rounding_of(engines, 1024, 16, "cuda")


@pytest.mark.parametrize("name", GRAPH)
def test_in_bfloat16_it_is_as_near_to_float32_as_hf(rounding, name):
    _, errors = rounding
    assert 0 < errors[name] <= 1.05 * min(errors[each] for each in HF)


IS_H100 = torch.cuda.is_available() and "H100" in torch.cuda.get_device_name()
LESS_ROUNDED = pytest.mark.xfail(
    strict=IS_H100,
    reason="0.044 where hf differs from itself by 0.030: nearer to float32 (0.034) than hf (0.040)",
)


@pytest.mark.parametrize("name", ["graph", ROUNDED, pytest.param("graph compiled", marks=LESS_ROUNDED)])
def test_in_bfloat16_it_differs_from_hf_less_than_hf_does_at_another_batch_size(rounding, name):
    """On an H100: 0.024 beside 0.030. On an H200, for which cuBLAS chooses other kernels, it is 0.034 beside 0.029."""
    apart, _ = rounding
    between_hf = [apart["hf 256", other] for other in HF if other != "hf 256"]
    assert 0 < apart["hf 256", name] < min(between_hf) * (1 if IS_H100 else 1.3)
