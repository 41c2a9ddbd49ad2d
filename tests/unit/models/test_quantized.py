"""A base in 4 bits: NF4 as the paper has it, trained through after an evaluation, shared and moved with its scales."""

import copy

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file
from torch import nn

import rlhf.models.quantized as quantized
from rlhf.errors import ModelError, UsageError
from rlhf.models.forward import hidden_states, sequence_scores
from rlhf.models.load import ModelSource, load_causal_lm, new_reward_model, scratch_causal_lm
from rlhf.models.offload import on_device
from rlhf.models.quantized import Quantization, is_quantized, scales_of
from rlhf.models.shared import SharedWeights, parameter_bytes
from rlhf.recipe.model import LoRA, ScratchModel

NF4 = Quantization("nf4")
IDS = torch.tensor([[5, 9, 3, 7, 4, 1]])
SEEN = torch.ones_like(IDS, dtype=torch.bool)
# Dettmers et al. 2023, appendix E.
LEVELS = [-1.0, -0.6961928, -0.5250731, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0]
LEVELS += [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]


def saved(folder, width=64, kind="llama"):
    spec = ScratchModel(
        model_type=kind, vocab_size=300, hidden_size=width, num_layers=2, num_heads=2, intermediate_size=128
    )
    scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=3).save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path):
    return saved(tmp_path / "base")


def adapted(base):
    """A policy whose adapter does something, dropout off."""
    model = load_causal_lm(ModelSource(str(base), quantization=NF4), lora=LoRA(r=2), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2, generator=generator)
    return model


def gradients(model):
    model.train()
    model.zero_grad()
    hidden_states(model, IDS, SEEN).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def test_weights_are_the_nearest_nf4_level_of_their_block(base):
    model = load_causal_lm(ModelSource(str(base), quantization=NF4))
    weights = load_file(base / "model.safetensors")
    checked = 0
    for name, parameter in model.named_parameters():
        if not is_quantized(parameter):
            assert torch.equal(parameter, weights[name]), name
            assert parameter.dtype == torch.float32
            continue
        given = weights[name].numpy().reshape(-1, 64)
        scale = np.abs(given).max(axis=1, keepdims=True)
        nearest = np.abs(given[..., None] / scale[..., None] - np.array(LEVELS, dtype=np.float32)).argmin(-1)
        expected = (np.array(LEVELS, dtype=np.float32)[nearest] * scale).reshape(parameter.quant_state.shape)
        held = dequantize_4bit(parameter.data, parameter.quant_state).numpy()
        # The scales are in 8 bits themselves (double quantisation): their own rounding, no more.
        assert np.abs(held - expected).max() < 0.02 * scale.max(), name
        assert parameter.quant_state.nested
        checked += 1
    assert checked == 14
    assert not is_quantized(model.get_output_embeddings().weight)


def test_the_base_takes_an_eighth_of_the_memory(base):
    whole, held = (
        parameter_bytes([load_causal_lm(ModelSource(str(base), quantization=q)).model.layers])
        for q in (None, NF4)
    )
    assert 0.12 < held / whole < 0.16


def test_an_evaluation_does_not_change_what_is_trained(base):
    """Where bitsandbytes would repack codes for a kernel without gradient, on a CPU with AVX512-BF16."""
    model = adapted(base)
    before = gradients(model)
    with torch.no_grad():
        model.eval()
        first = hidden_states(model, IDS, SEEN)
    after = gradients(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], grad) for name, grad in after.items())
    assert torch.equal(first, hidden_states(model.eval(), IDS, SEEN))


def test_the_repacking_is_off_whatever_the_cpu(base):
    layers = [m for m in adapted(base).modules() if isinstance(m, Linear4bit)]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_a_new_reward_model_has_its_head_in_float32(base):
    source = ModelSource(str(base), quantization=NF4)
    model = new_reward_model(source, lora=LoRA(r=2), pad_token_id=0, seed=1)
    trained = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert set(trained.values()) == {torch.float32}
    assert any("score.modules_to_save" in name for name in trained)
    sequence_scores(model, IDS, SEEN).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_models_share_codes_and_scales(base):
    policy, reference = adapted(base), load_causal_lm(ModelSource(str(base), quantization=NF4))
    expected = hidden_states(reference, IDS, SEEN)
    reference.requires_grad_(False)
    weights = SharedWeights()
    weights.join(policy, "policy")
    weights.join(reference, "reference")
    assert torch.equal(hidden_states(reference, IDS, SEEN), expected)
    assert parameter_bytes([policy, reference]) == parameter_bytes([policy])
    layer = reference.model.layers[0].mlp.gate_proj
    assert layer.quant_state is layer.weight.quant_state


def test_equal_codes_under_other_scales_are_other_weights(base):
    weights = SharedWeights()
    weights.join(adapted(base), "policy")
    other = load_causal_lm(ModelSource(str(base), quantization=NF4)).requires_grad_(False)
    scales_of(other.model.layers[1].mlp.up_proj.weight)[0][0] ^= 1
    with pytest.raises(ModelError, match=r"reference: its weight model\.layers\.1\.mlp\.up_proj\.weight"):
        weights.join(other, "reference")


def test_a_model_that_waits_keeps_its_scales(base):
    model = load_causal_lm(ModelSource(str(base), quantization=NF4)).requires_grad_(False)
    expected = hidden_states(model, IDS, SEEN)
    with on_device(model, torch.device("meta")):
        assert {p.device.type for p in model.parameters()} == {"meta"}
        layer = model.model.layers[0].mlp.gate_proj
        assert {scale.device.type for scale in scales_of(layer.weight)} == {"meta"}
    assert torch.equal(hidden_states(model, IDS, SEEN), expected)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rows_that_the_cpu_kernel_reads_wrongly_are_refused(tmp_path, kind):
    narrow = saved(tmp_path / "narrow", width=32, kind=kind)
    with pytest.raises(ModelError, match=r"narrow: a layer reads 32 features, no multiple of 64"):
        load_causal_lm(ModelSource(str(narrow), quantization=NF4))


def test_without_bitsandbytes_the_error_names_the_extra(base, monkeypatch):
    monkeypatch.setattr(quantized.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs bitsandbytes(.|\n)*\[qlora\]"):
        load_causal_lm(ModelSource(str(base), quantization=NF4))


def test_a_model_without_linear_layers_is_refused():
    model = nn.Sequential(nn.Embedding(3, 4))
    with pytest.raises(ModelError, match=r"owner/odd: none of its layers can be held in 4 bits"):
        quantized.prepare(model, "owner/odd")


def test_trl_does_not_see_the_flag_and_others_do_afterwards(base):
    model = adapted(base)
    with quantized.kept_in_float32(model):
        assert not model.is_loaded_in_4bit
    assert model.is_loaded_in_4bit
    plain = copy.deepcopy(load_causal_lm(ModelSource(str(base))))
    with quantized.kept_in_float32(plain):
        pass
    assert not hasattr(plain, "is_loaded_in_4bit")
