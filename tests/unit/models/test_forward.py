"""Hidden states and scores do not depend on padding, and the score is transformers' own where that is right."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from rlhf.models.forward import hidden_states, pad_left, pad_right, score_token_lists, sequence_scores

CPU = torch.device("cpu")
EOS, PAD = 1, 2
ROWS = [[5, 9, 3, 7, 4, EOS], [6, EOS], [8, EOS, 5, EOS, 7, 9, 3, EOS], [4]]
KINDS = ("llama", "gpt2", "gpt_neox")


def reward_model(kind):
    ids = {"eos_token_id": EOS, "pad_token_id": PAD, "num_labels": 1}
    if kind == "gpt2":
        drops = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        model = GPT2ForSequenceClassification(
            GPT2Config(vocab_size=12, n_embd=16, n_layer=2, n_head=2, n_positions=32, **drops, **ids)
        )
    else:
        shape = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 2, "max_position_embeddings": 32} | ids
        config, classifier = {
            "llama": (LlamaConfig, LlamaForSequenceClassification),
            "gpt_neox": (GPTNeoXConfig, GPTNeoXForSequenceClassification),
        }[kind]
        model = classifier(config(**shape))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4, generator=generator)
    return model.eval()


@torch.no_grad()
def alone(model, row):
    """The hidden states of one row without padding, by the model's own forward."""
    backbone = getattr(model, model.base_model_prefix)
    return backbone(input_ids=torch.tensor([row])).last_hidden_state[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pad", [pad_left, pad_right])
@torch.no_grad()
def test_line_02_padded_rows_have_the_hidden_states_and_scores_of_unpadded_ones(kind, pad):
    model = reward_model(kind)
    ids, mask = pad(ROWS, CPU)
    hidden = hidden_states(model, ids, mask)
    scores = sequence_scores(model, ids, mask)
    for index, row in enumerate(ROWS):
        expected = alone(model, row)
        assert torch.allclose(hidden[index][mask[index]], expected, atol=1e-5)
        # at the last real token, whatever EOS stands before it
        assert float(scores[index]) == pytest.approx(float(model.score(expected[-1])), abs=1e-5)


@torch.no_grad()
def test_a_width_that_would_cut_a_row_is_refused():
    model, longest = reward_model("llama"), max(map(len, ROWS))
    ids, mask = pad_left(ROWS, CPU)
    assert torch.equal(hidden_states(model, ids, mask, longest), hidden_states(model, ids, mask))
    with pytest.raises(ValueError, match=f"width={longest - 1}"):
        hidden_states(model, ids, mask, longest - 1)


@torch.no_grad()
def test_positions_matter_to_these_models():
    """Else the test above could not fail: a row shifted by its padding has other hidden states."""
    model = reward_model("gpt2")
    ids, mask = pad_left([ROWS[1], ROWS[2]], CPU)
    shifted = model.transformer(input_ids=ids, attention_mask=mask.long(), position_ids=torch.arange(8)[None])
    assert not torch.allclose(shifted.last_hidden_state[0][mask[0]], alone(model, ROWS[1]), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scores_are_those_of_transformers_where_pad_is_not_eos(kind):
    model = reward_model(kind)
    length = max(len(row) for row in ROWS)
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in ROWS])
    expected = model(input_ids=ids, attention_mask=(ids != PAD).long()).logits.squeeze(-1).tolist()
    assert score_token_lists(model, ROWS, batch_size=3) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_line_03_transformers_with_pad_equal_to_eos_reads_the_score_too_early():
    """Why the pad token is never EOS here."""
    model = reward_model("llama")
    model.config.pad_token_id = EOS
    theirs = float(model(input_ids=torch.tensor([ROWS[0]])).logits[0, 0])
    hidden = alone(model, ROWS[0])
    assert theirs == pytest.approx(float(model.score(hidden[-2])), abs=1e-5)
    assert score_token_lists(model, ROWS[:1], batch_size=1)[0] == pytest.approx(
        float(model.score(hidden[-1])), abs=1e-5
    )


def test_order_and_training_mode_are_kept():
    model = reward_model("llama").train()
    one_by_one = [score_token_lists(model, [row], batch_size=1)[0] for row in ROWS]
    assert score_token_lists(model, ROWS, batch_size=2) == pytest.approx(one_by_one, abs=1e-5)
    assert model.training
