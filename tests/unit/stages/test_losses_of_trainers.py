"""What SFT and the reward model minimise: weights, margins and accumulation, against a plain sum over rows."""

import math

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from trl.trainer.reward_config import RewardConfig
from trl.trainer.sft_config import SFTConfig

from rlhf.checkpoint import Checkpoints
from rlhf.models.tokenizer import pad_id, train_tokenizer
from rlhf.recipe.training import RewardSection
from rlhf.stages import reward, sft
from rlhf.stages.tokens.encoders import Demonstration, Pair
from rlhf.stages.tokens.examples import Examples
from rlhf.stages.tokens.rows import DEMONSTRATIONS as DEMONSTRATION_LAYOUT
from rlhf.stages.tokens.rows import PAIRS as PAIR_LAYOUT
from rlhf.stages.tokens.rows import TokenRows, dataset_of

TOKENIZER = train_tokenizer(["a b c d e f g"], 300)
PAD, EOS = pad_id(TOKENIZER), 1
SHAPE = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
}
DEMONSTRATIONS = [
    Demonstration([5, 6, 7, 8, EOS], [False, False, True, True, True], 1.0),
    Demonstration([9, 5, EOS], [False, True, True], 3.0),
    Demonstration([4, 4, 9, 12, 7, 6, EOS], [False] * 5 + [True] * 2, 0.25),
    Demonstration([11, EOS], [False, True], 1.0),
]
PAIRS = [
    Pair([5], [5, 6, 7, EOS], [5, 9, EOS], 1.5, 2.0),
    Pair([8], [8, 4, EOS], [8, 12, 13, 14, EOS], None, 1.0),
    Pair([9], [9, EOS], [9, 3, EOS], 0.5, 0.5),
    Pair([4], [4, 7, EOS], [4, EOS, 6, EOS], 0.0, 1.0),
]


def examples_of(rows, layout, *, has_weights=True):
    """Rows in memory, as the runners are given those of the cache."""
    return Examples(TokenRows(dataset_of(rows, layout), layout.row), has_weights=has_weights)


def model_of(classifier, **more):
    model = classifier(LlamaConfig(**SHAPE, **more))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4, generator=generator)
    return model


def arguments(config, folder, per_device, **more):
    return config(
        output_dir=str(folder),
        learning_rate=0.1,
        max_steps=1,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=4 // per_device,
        max_grad_norm=1000.0,
        optim="sgd",
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        max_length=None,
        bf16=False,
        gradient_checkpointing=False,
        **more,
    )


def stepped(model, loss):
    """The weights after one step of gradient descent on a loss."""
    loss.backward()
    return {name: (p - 0.1 * p.grad).detach() for name, p in model.named_parameters()}


def assert_same_weights(model, expected):
    for name, value in model.named_parameters():
        assert torch.allclose(value, expected[name], atol=1e-6, rtol=0), name


def sft_loss(model, rows):
    """Weight x negative log-likelihood of each label, over the number of labels."""
    total, count = torch.zeros(()), 0
    for row in rows:
        logprobs = torch.log_softmax(model(input_ids=torch.tensor([row.input_ids])).logits[0], dim=-1)
        for t in range(1, len(row.input_ids)):
            if row.labels_mask[t]:
                total = total - row.weight * logprobs[t - 1, row.input_ids[t]]
                count += 1
    return total / count


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("per_device", [1, 2, 4])
def test_an_sft_step_is_that_of_the_weighted_sum_over_labels(tmp_path, per_device, weighted):
    rows = [row if weighted else Demonstration(row.input_ids, row.labels_mask, 1.0) for row in DEMONSTRATIONS]
    reference, model = model_of(LlamaForCausalLM), model_of(LlamaForCausalLM)
    trainer = sft.WeightedSFTTrainer(
        model=model,
        args=arguments(SFTConfig, tmp_path, per_device),
        train_dataset=sft._dataset(examples_of(rows, DEMONSTRATION_LAYOUT, has_weights=weighted)),
        processing_class=TOKENIZER,
        data_collator=sft.WeightedCollator(pad_token_id=PAD),
    )
    loss = sft_loss(reference, rows)
    expected = stepped(reference, loss)
    trainer.checkpoints = Checkpoints(tmp_path / "checkpoints")
    result = trainer.train()
    assert result.training_loss == pytest.approx(float(loss.detach()), abs=1e-5)
    assert_same_weights(model, expected)


def reward_loss(model, rows, *, margin, centre=0.0):
    """Mean over pairs of weight x -log sigmoid(gap - margin); scores read at the last token of the unpadded row."""
    losses = []
    for row in rows:
        chosen, rejected = (
            model.score(model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1])[0]
            for ids in (row.chosen_ids, row.rejected_ids)
        )
        gap = chosen - rejected - ((row.margin or 0.0) if margin == "loss" else 0.0)
        losses.append(row.weight * torch.log1p(torch.exp(-gap)) + centre * (chosen + rejected) ** 2)
    return torch.stack(losses).mean()


def reward_section(**changes):
    plain = {"learning_rate": 1e-3, "global_batch_size": 4, "per_device_batch_size": 4}
    return RewardSection.model_validate(plain | changes)


@pytest.mark.parametrize("margin", ["ignore", "loss"])
@pytest.mark.parametrize("per_device", [1, 2, 4])
def test_a_reward_step_honours_weights_and_margins(tmp_path, per_device, margin):
    reference, model = (model_of(LlamaForSequenceClassification, num_labels=1) for _ in range(2))
    centre = 0.01 if per_device == 2 else None
    trainer = reward.WeightedRewardTrainer(
        model=model,
        args=arguments(RewardConfig, tmp_path, per_device, center_rewards_coefficient=centre),
        train_dataset=reward._dataset(examples_of(PAIRS, PAIR_LAYOUT), reward_section(margin=margin)),
        processing_class=TOKENIZER,
        data_collator=reward.WeightedCollator(pad_token_id=PAD),
    )
    loss = reward_loss(reference, PAIRS, margin=margin, centre=centre or 0.0)
    expected = stepped(reference, loss)
    trainer.checkpoints = Checkpoints(tmp_path / "checkpoints")
    result = trainer.train()
    assert result.training_loss == pytest.approx(float(loss.detach()), abs=1e-5)
    assert_same_weights(model, expected)


def test_margins_are_ignored_by_default():
    dataset = reward._dataset(examples_of(PAIRS, PAIR_LAYOUT), reward_section())
    assert isinstance(dataset, Dataset)
    assert "margin" not in dataset.column_names
    assert reward._dataset(examples_of(PAIRS, PAIR_LAYOUT), reward_section(margin="loss"))["margin"][:] == [
        1.5,
        None,
        0.5,
        0,
    ]


def test_margin_and_weight_by_hand():
    """One pair in numbers: gap 0.7, margin 1.5, weight 2 -> 2 x log(1 + e^0.8)."""

    class Scores(torch.nn.Module):
        score = staticmethod(lambda hidden: hidden)

        def model(self, input_ids):
            value = {7: 0.9, 9: 0.2}[int(input_ids[0, 1])]
            return type("Output", (), {"last_hidden_state": torch.full((1, 3, 1), value)})

    pair = Pair([5], [5, 7, EOS], [5, 9, EOS], 1.5, 2.0)
    assert float(reward_loss(Scores(), [pair], margin="loss")) == pytest.approx(2 * math.log1p(math.exp(0.8)))
    assert float(reward_loss(Scores(), [pair], margin="ignore")) == pytest.approx(
        2 * math.log1p(math.exp(-0.7))
    )
