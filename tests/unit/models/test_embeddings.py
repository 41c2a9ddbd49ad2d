"""A model whose tokenizer had to be given a pad token gets room for it, the same in policy and reference."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf.errors import ModelError
from rlhf.models.embeddings import fit_embeddings
from rlhf.models.tokenizer import load_tokenizer

WORDS = {"<end>": 0, "a": 1, "b": 2, "c": 3}


@pytest.fixture
def tokenizer(tmp_path):
    """As GPT-2's: no pad token, and no unused one to take."""
    backend = Tokenizer(models.WordLevel(WORDS, unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(tmp_path)
    return load_tokenizer(tmp_path)


def config(**more):
    return GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=2, n_positions=16, eos_token_id=0, **more)


def test_the_pad_token_gets_a_row_and_the_old_rows_stay(tokenizer):
    model = GPT2LMHeadModel(config())
    before = model.get_input_embeddings().weight.detach().clone()
    fit_embeddings(model, tokenizer, seed=0)
    after = model.get_input_embeddings().weight
    assert after.shape == (5, 8)
    assert torch.equal(after[:4], before)
    assert model.config.vocab_size == 5
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 4


def test_policy_and_reference_get_the_same_row(tokenizer):
    policy = GPT2LMHeadModel(config())
    reference = GPT2LMHeadModel(config())
    reference.load_state_dict(policy.state_dict())
    fit_embeddings(policy, tokenizer, seed=3)
    torch.rand(7)
    fit_embeddings(reference, tokenizer, seed=3)
    assert torch.equal(policy.get_input_embeddings().weight, reference.get_input_embeddings().weight)


def test_a_reward_model_gets_it_too(tokenizer):
    model = GPT2ForSequenceClassification(config(num_labels=1))
    fit_embeddings(model, tokenizer, seed=0)
    assert model.get_input_embeddings().weight.shape[0] == 5
    assert model.config.pad_token_id == 4


def test_lora_would_not_save_new_rows_and_is_refused(tokenizer):
    model = get_peft_model(GPT2LMHeadModel(config()), LoraConfig(target_modules=["c_attn"], r=2))
    with pytest.raises(ModelError, match="a pad token had to be added"):
        fit_embeddings(model, tokenizer, seed=0)
