"""Four roles on one copy of the base's weights give what four separate models give, forward and backward."""

import copy

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file
from tiny_ppo import KINDS, config_of, lively
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.errors import ModelError
from rlhf.models import forward
from rlhf.models.forward import sequence_scores
from rlhf.models.load import ModelSource, load_causal_lm, load_reward_model
from rlhf.models.shared import SharedWeights, parameter_bytes
from rlhf.ppo.actor_critic import ActorCritic, response_logprobs
from rlhf.recipe.model import LoRA

TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "c_fc"],
    "gpt_neox": ["query_key_value", "dense_4h_to_h"],
}
PROMPTS = [[3, 5, 7], [2, 9, 11, 13, 6], [8]]
RESPONSES = [[4, 6], [1, 2, 3, 5, 22], [10, 12, 14, 22]]


def batch():
    """Prompts padded on the left to 5, responses on the right to 5."""
    ids = torch.zeros(3, 10, dtype=torch.long)
    mask = torch.zeros(3, 10, dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        columns = slice(5 - len(prompt), 5 + len(response))
        ids[row, columns], mask[row, columns] = torch.tensor(prompt + response), True
    return ids, mask, mask[:, 5:]


@pytest.fixture(params=[(kind, tied) for kind in KINDS for tied in (True, False)], ids=str)
def sources(request, tmp_path):
    """The base, an SFT adapter and a reward adapter with its head on it, all with weights that matter."""
    kind, tied = request.param
    base = tmp_path / "base"
    lively(AutoModelForCausalLM.from_config(config_of(kind, tie_word_embeddings=tied)), 1).save_pretrained(
        base
    )
    for name, task, auto in (
        ("sft", TaskType.CAUSAL_LM, AutoModelForCausalLM),
        ("reward", TaskType.SEQ_CLS, AutoModelForSequenceClassification),
    ):
        model = auto.from_pretrained(base, **({"num_labels": 1} if name == "reward" else {}))
        saved = ["score"] if name == "reward" else None
        config = LoraConfig(
            task_type=task, r=2, lora_dropout=0.0, target_modules=TARGETS[kind], modules_to_save=saved
        )
        adapted = get_peft_model(model, config)
        generator = torch.Generator().manual_seed(len(name))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.3, generator=generator)
        adapted.save_pretrained(tmp_path / name)
    return {name: ModelSource(str(tmp_path / name)) for name in ("base", "sft", "reward")}


def four(sources):
    """Policy, reference, critic, reward model, loaded as PPO loads them."""
    policy = load_causal_lm(sources["sft"])
    reference = load_causal_lm(sources["sft"], trainable=False)
    critic = load_reward_model(sources["reward"], trainable=True)
    reward = load_reward_model(sources["reward"])
    return {"policy": policy, "reference": reference, "critic": critic, "reward": reward}


def joined(models, order=("reward", "policy", "reference", "critic")):
    weights = SharedWeights()
    for name in order:
        weights.join(models[name], name)
    return models


def outputs(models):
    """What PPO asks of the four roles, on ragged rows."""
    ids, mask, response_mask = batch()
    actor_critic = ActorCritic(models["policy"], models["critic"], temperature=0.7)
    with torch.no_grad():
        logprobs, entropy, values = actor_critic(ids, mask, response_mask).values()
        reference = response_logprobs(models["reference"], ids, mask, response_mask, temperature=0.7)[0]
        return logprobs, entropy, values, reference, sequence_scores(models["reward"], ids, mask)


def moved(models):
    """Adapters of policy and critic a few large steps from where they started, the same for every call."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name in ("policy", "critic"):
            for parameter in models[name].parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return models


def gradients(models, *, checkpointing):
    ids, mask, response_mask = batch()
    for name in ("policy", "critic"):
        if checkpointing:
            models[name].gradient_checkpointing_enable()
        on = any(getattr(module, "gradient_checkpointing", False) for module in models[name].modules())
        assert on == checkpointing
        models[name].train()
    actor_critic = ActorCritic(models["policy"], models["critic"], temperature=0.7)
    logprobs, entropy, values = actor_critic(ids, mask, response_mask).values()
    (logprobs.square().sum() + 0.1 * entropy.sum() + (values - 1.0).square().sum()).backward()
    return {name: p.grad for name, p in actor_critic.named_parameters() if p.requires_grad}


def test_every_role_says_what_its_separate_model_says(sources):
    separate, shared = outputs(moved(four(sources))), outputs(moved(joined(four(sources))))
    logprobs, _, values, reference, scores = separate
    assert float((logprobs - reference).abs().max()) > 0.1, "policy and reference are one"
    assert float((values[:, 0] - scores).abs().max()) > 0.1, "critic and reward model are one"
    for ours, theirs in zip(shared, separate, strict=True):
        assert torch.equal(ours, theirs)


def test_a_reference_without_an_adapter_is_the_backbone_itself(sources):
    def models():
        policy = load_causal_lm(sources["base"], lora=LoRA(r=2, target_modules=targets), seed=3)
        return four(sources) | {"policy": policy, "reference": load_causal_lm(sources["base"])}

    targets = load_causal_lm(sources["sft"]).peft_config["default"].target_modules
    targets = sorted(targets)
    separate = models()
    shared = models()
    shared["reference"].requires_grad_(False)
    joined(shared, order=("policy", "reference", "critic", "reward"))
    expected = outputs(moved(separate))
    for ours, theirs in zip(outputs(moved(shared)), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert parameter_bytes([shared["policy"], shared["reference"]]) == parameter_bytes([shared["policy"]])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_backward_through_policy_and_critic_gives_the_same_gradients(sources, checkpointing, monkeypatch):
    if checkpointing:  # no MLP leaves a token out then, which rounds otherwise
        monkeypatch.setattr(forward, "takes_shortcuts", lambda _: False)
    expected = gradients(moved(four(sources)), checkpointing=False)
    ours = gradients(moved(joined(four(sources))), checkpointing=checkpointing)
    assert expected.keys() == ours.keys()
    assert all("lora_" in name or "score.modules_to_save" in name for name in ours)
    assert min(float(grad.abs().max()) for grad in expected.values()) > 0
    for name, grad in expected.items():
        assert torch.allclose(ours[name], grad, rtol=1e-6, atol=0), name


def test_the_memory_is_one_base_with_adapters_and_heads(sources):
    separate, shared = four(sources), joined(four(sources))
    base = parameter_bytes([AutoModelForCausalLM.from_pretrained(sources["base"].path)])
    own = {name: load_file(f"{sources[name].path}/adapter_model.safetensors") for name in ("sft", "reward")}
    adapters = {name: sum(4 * tensor.numel() for tensor in own[name].values()) for name in own}
    head = 4 * 16  # PEFT keeps the untrained head beside the one that it trains
    assert parameter_bytes(shared.values()) == base + 2 * adapters["sft"] + 2 * (adapters["reward"] + head)
    output_head = sum(p.numel() * 4 for n, p in separate["policy"].named_parameters() if "lm_head" in n)
    output_head += sum(p.numel() * 4 for n, p in separate["policy"].named_parameters() if "embed_out" in n)
    assert parameter_bytes(separate.values()) == parameter_bytes(shared.values()) + 3 * base - 2 * output_head


def test_what_trains_and_what_is_frozen_stays_so(sources):
    separate, shared = four(sources), joined(four(sources))
    for name, model in separate.items():
        expected = {key: p.requires_grad for key, p in model.named_parameters(remove_duplicate=False)}
        assert {
            key: p.requires_grad for key, p in shared[name].named_parameters(remove_duplicate=False)
        } == expected
    assert not any(p.requires_grad for name in ("reference", "reward") for p in shared[name].parameters())


def test_a_model_on_other_weights_is_refused_and_left_as_it_was(sources):
    models = four(sources)
    weights = SharedWeights()
    weights.join(models["policy"], "policy")
    with torch.no_grad():
        list(models["critic"].get_base_model().parameters())[-3].add_(1e-3)
    before = {name: id(p) for name, p in models["critic"].named_parameters()}
    with pytest.raises(ModelError, match=r"critic: its weight .* is not that of the base") as caught:
        weights.join(models["critic"], "critic")
    assert "separate" in str(caught.value)
    assert {name: id(p) for name, p in models["critic"].named_parameters()} == before


@pytest.mark.parametrize("written_shared", [False, True])
def test_a_checkpoint_holds_what_trains_and_fits_both_layouts(sources, tmp_path, written_shared):
    def of(models):
        return ActorCritic(models["policy"], models["critic"], temperature=0.7)

    separate, shared = four(sources), joined(four(sources))
    written, read = (shared, separate) if written_shared else (separate, shared)
    moved(written)
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(of(written))
    accelerator.save_state(str(tmp_path / "checkpoint"))
    saved = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert saved.keys() == {name for name, p in of(written).named_parameters() if p.requires_grad}
    accelerator.free_memory()
    accelerator.prepare(of(read))
    accelerator.load_state(str(tmp_path / "checkpoint"))
    for ours, theirs in zip(outputs(read), outputs(written), strict=True):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_that_repeats_the_base_loads_and_one_that_lacks_an_adapter_does_not(sources):
    models = four(sources)
    actor_critic = ActorCritic(models["policy"], models["critic"], temperature=0.7)
    whole = copy.deepcopy(dict(actor_critic.named_parameters(remove_duplicate=False)))
    assert actor_critic.load_state_dict(whole).missing_keys == []
    lacking = dict(actor_critic.state_dict())
    lacking.pop(next(name for name in lacking if "lora_B" in name))
    with pytest.raises(RuntimeError, match="Missing key"):
        actor_critic.load_state_dict(lacking)


def test_without_adapters_a_checkpoint_holds_every_weight():
    policy = AutoModelForCausalLM.from_config(config_of("llama"))
    critic = AutoModelForSequenceClassification.from_config(config_of("llama", num_labels=1))
    actor_critic = ActorCritic(policy, critic, temperature=1.0)
    names = {name for name, _ in actor_critic.named_parameters(remove_duplicate=False)}
    assert actor_critic.state_dict().keys() == names
