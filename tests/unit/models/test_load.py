"""Loading: nothing missing in silence, adapters on an untouched base, plain transformers and PEFT read what is written."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.errors import ModelError
from rlhf.models.forward import hidden_states
from rlhf.models.load import (
    ModelSource,
    check_plain_logits,
    disable_dropout,
    load_causal_lm,
    load_reward_model,
    new_reward_model,
    scratch_causal_lm,
)
from rlhf.recipe.model import LoRA, ScratchModel

IDS = torch.tensor([[5, 9, 3, 7, 4, 1]])
SEEN = torch.ones_like(IDS, dtype=torch.bool)
TYPES = ("llama", "gpt2", "gpt_neox", "qwen2", "mistral")


def scratch(model_type="llama", **more):
    spec = ScratchModel(
        model_type=model_type,
        vocab_size=300,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=24,
        **more,
    )
    return scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=3)


@pytest.fixture
def base(tmp_path):
    scratch().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def without(folder, name):
    """The folder with one weight taken out."""
    weights = weights_of(folder)
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("model_type", TYPES)
def test_a_scratch_model_names_the_tokenizers_ids_and_survives_a_round_trip(model_type, tmp_path):
    model = scratch(model_type)
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id, config.bos_token_id) == (1, 0, None)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = load_causal_lm(ModelSource(str(tmp_path)))
    assert (loaded.config.eos_token_id, loaded.config.bos_token_id) == (1, None)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)
    check_plain_logits(loaded)


def test_the_seed_decides_the_weights():
    spec = ScratchModel(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2)
    first, again, other = (
        scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=seed).get_input_embeddings().weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_missing_weight_is_refused_by_name(base):
    without(base, "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(ModelError, match=r"1 weight\(s\) missing.*layers\.1\.mlp\.up_proj"):
        load_causal_lm(ModelSource(str(base)))


def test_a_weight_of_another_shape_is_refused(base):
    weights = weights_of(base)
    weights["model.norm.weight"] = torch.ones(17)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        load_causal_lm(ModelSource(str(base)))


def test_tied_weights_that_are_stored_once_are_fine(base):
    assert "lm_head.weight" not in weights_of(base)
    load_causal_lm(ModelSource(str(base)))


def test_line_26_a_reward_model_without_its_head_is_refused(base, tmp_path):
    with pytest.raises(ModelError):
        load_reward_model(ModelSource(str(base)))
    new_reward_model(ModelSource(str(base)), lora=None, pad_token_id=0, seed=1).save_pretrained(
        tmp_path / "rm"
    )
    load_reward_model(ModelSource(str(tmp_path / "rm")))
    without(tmp_path / "rm", "score.weight")
    with pytest.raises(ModelError, match=r"score\.weight"):
        load_reward_model(ModelSource(str(tmp_path / "rm")))


def test_a_folder_that_does_not_exist_is_one_message(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_causal_lm(ModelSource(str(tmp_path / "nothing")))


def test_weights_are_float32_whatever_they_are_stored_as(tmp_path):
    scratch().to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load_causal_lm(ModelSource(str(tmp_path))).parameters()} == {torch.float32}


def test_new_head_starts_small_and_by_its_seed(base):
    heads = [
        new_reward_model(ModelSource(str(base)), lora=None, pad_token_id=0, seed=seed).score.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert 0.1 < float(heads[0].detach().std()) < 0.5  # 1 / sqrt(17) = 0.24


def test_disable_dropout_reaches_every_kind_of_dropout(base):
    model = load_causal_lm(ModelSource(str(base)), lora=LoRA(r=2, alpha=4, dropout=0.5))
    for layer in model.get_base_model().model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    with torch.no_grad():
        assert not torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
        disable_dropout(model)
        assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)


def moved(model):
    """The trainable weights pushed away from where they start (LoRA's B starts at 0: no effect at all)."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.fixture
def adapters(base, tmp_path):
    """SFT, reward and PPO adapters, each going on from the one before, as the stages do."""
    lora = LoRA(r=2, alpha=4)
    folders = {name: tmp_path / name for name in ("sft", "reward", "ppo")}
    sft = moved(load_causal_lm(ModelSource(str(base)), lora=lora, seed=1))
    sft.save_pretrained(folders["sft"])
    source = ModelSource(str(folders["sft"]))
    reward = new_reward_model(source, lora=lora, pad_token_id=0, seed=2)
    ppo = load_causal_lm(source, lora=lora, seed=3)
    start = {"sft": sft, "reward": reward.eval(), "ppo": ppo.eval()}
    with torch.no_grad():
        before = {name: hidden_states(model, IDS, SEEN) for name, model in start.items()}
    moved(reward).save_pretrained(folders["reward"])
    moved(ppo).save_pretrained(folders["ppo"])
    return folders, start, before


@torch.no_grad()
def test_reward_and_policy_adapters_go_on_from_the_sft_adapter(adapters, base):
    _, _, before = adapters
    plain = hidden_states(load_causal_lm(ModelSource(str(base))).eval(), IDS, SEEN)
    assert not torch.allclose(before["sft"], plain, atol=1e-3)
    assert torch.equal(before["reward"], before["sft"])
    assert torch.equal(before["ppo"], before["sft"])


def test_only_adapter_and_head_are_trained_and_the_base_stays_bit_for_bit(adapters, base):
    _, models, _ = adapters
    stored = weights_of(base)
    for stage, model in models.items():
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trained
        assert all("lora_" in name or "score" in name for name in trained), stage
        assert any("score" in name for name in trained) == (stage == "reward")
        kept = {n.replace(".base_layer", ""): p for n, p in model.get_base_model().named_parameters()}
        for name, value in stored.items():
            assert torch.equal(kept[name], value), (stage, name)


@torch.no_grad()
def test_line_26_saved_adapters_load_with_all_their_weights(adapters):
    folders, models, _ = adapters
    for stage in ("sft", "ppo"):
        loaded = load_causal_lm(ModelSource(str(folders[stage])), trainable=False).eval()
        assert not any(p.requires_grad for p in loaded.parameters())
        assert torch.equal(loaded(input_ids=IDS).logits, models[stage](input_ids=IDS).logits)
    critic = load_reward_model(ModelSource(str(folders["reward"])), trainable=True).eval()
    assert any("score" in name for name, p in critic.named_parameters() if p.requires_grad)
    assert torch.equal(critic(input_ids=IDS).logits, models["reward"](input_ids=IDS).logits)


@torch.no_grad()
def test_plain_transformers_loads_the_adapter_folders(adapters):
    folders, models, _ = adapters
    for stage in ("sft", "ppo"):
        plain = AutoModelForCausalLM.from_pretrained(folders[stage], dtype=torch.float32).eval()
        assert torch.allclose(plain(input_ids=IDS).logits, models[stage](input_ids=IDS).logits, atol=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(
        folders["reward"], num_labels=1, dtype=torch.float32
    ).eval()
    plain.config.pad_token_id = 0
    assert torch.allclose(plain(input_ids=IDS).logits, models["reward"](input_ids=IDS).logits, atol=1e-5)


def test_an_adapter_that_lost_a_weight_is_refused(adapters):
    folders, _, _ = adapters
    for stage, load, lost in (
        ("sft", load_causal_lm, "lora_B"),
        ("reward", load_reward_model, "score"),
    ):
        path = folders[stage] / "adapter_model.safetensors"
        weights = load_file(path)
        del weights[next(name for name in weights if lost in name)]
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(ModelError, match="weights missing"):
            load(ModelSource(str(folders[stage])))


def test_a_reward_model_goes_on_from_an_adapter_whatever_the_recipe_says_of_lora(adapters):
    """An adapter that came from outside has a shape of its own; without a lora section it must not be dropped."""
    folders, _, before = adapters
    for lora in (None, LoRA(r=8, alpha=1)):
        model = new_reward_model(ModelSource(str(folders["sft"])), lora=lora, pad_token_id=0, seed=2).eval()
        with torch.no_grad():
            assert torch.equal(hidden_states(model, IDS, SEEN), before["sft"])
