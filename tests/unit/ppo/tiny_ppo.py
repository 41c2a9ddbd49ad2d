"""Networks of a few thousand weights, and PPO's parts around them, for the tests of this folder."""

import torch
from accelerate import Accelerator
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from rlhf.models.forward import score_token_lists
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.noise import ROLLOUT_STREAM
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rollout import Collector
from rlhf.ppo.scoring import Score
from rlhf.ppo.update import Updater
from rlhf.recipe.ppo import PPOSection

KINDS = ("llama", "gpt2", "gpt_neox")
VOCAB = 23
EOS = 22
STOPS = (EOS, 4, 13, 17)


def config_of(kind, *, vocab=VOCAB, dropout=0.0, **more):
    """One layer of width 16; positions matter in all three (absolute in GPT-2, rotary in the others)."""
    ids = {"eos_token_id": vocab - 1, "bos_token_id": None, "pad_token_id": 0}
    if kind == "gpt2":
        drops = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
        return GPT2Config(
            vocab_size=vocab, n_embd=16, n_layer=2, n_head=2, n_positions=64, **drops, **ids, **more
        )
    shape = {
        "vocab_size": vocab,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "attention_dropout": dropout,
    }
    if kind == "llama":
        return LlamaConfig(**shape, num_key_value_heads=1, **ids, **more)
    return GPTNeoXConfig(**shape, rotary_pct=0.5, **ids, **more)


def lively(model, seed):
    """Weights large enough that tokens differ clearly in probability and every position matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.35, generator=generator)
    return model.eval()


def tiny_lm(kind="llama", *, seed=0, **more):
    """A causal language model."""
    classes = {"llama": LlamaForCausalLM, "gpt2": GPT2LMHeadModel, "gpt_neox": GPTNeoXForCausalLM}
    return lively(classes[kind](config_of(kind, **more)), seed)


def tiny_rm(kind="llama", *, seed=1, **more):
    """A reward model."""
    classes = {
        "llama": LlamaForSequenceClassification,
        "gpt2": GPT2ForSequenceClassification,
        "gpt_neox": GPTNeoXForSequenceClassification,
    }
    return lively(classes[kind](config_of(kind, num_labels=1, **more)), seed)


def section_of(**changes):
    """A PPO section of two updates on eight responses."""
    plain = {
        "num_steps": 10,
        "global_batch_size": 8,
        "per_device_batch_size": 8,
        "num_minibatches": 1,
        "num_epochs": 1,
        "learning_rate": 1e-3,
        "sampling": {"max_new_tokens": 7, "temperature": 0.7},
    }
    return PPOSection.model_validate(plain | changes)


PROMPTS = [Prompt(n, [1 + (3 * n + k) % 20 for k in range(1 + n % 4)], f"prompt {n}") for n in range(8)]


class ModelScorer:
    """A reward model's scores of prompt and response as sampled, a few answers at a time; keeps what it was asked."""

    def __init__(self, model, batch_size):
        self.model = model
        self.batch_size = batch_size
        self.calls = []

    def score(self, answers):
        self.calls.append(answers)
        sequences = [answer.prompt.token_ids + answer.response_ids for answer in answers]
        parts = [sequences[n : n + self.batch_size] for n in range(0, len(sequences), self.batch_size)]
        scores = [x for part in parts for x in score_token_lists(self.model, part, batch_size=len(part))]
        return [Score(value, {"model": value}) for value in scores]


class TinyPPO:
    """Policy, critic, reference, reward model and one collected rollout."""

    def __init__(self, section, *, kind="llama", policy=None, rollout_batch_size=3, engine=None):
        self.section = section.model_copy(update={"per_device_rollout_batch_size": rollout_batch_size})
        self.accelerator = Accelerator(cpu=True)
        self.policy = policy if policy is not None else tiny_lm(kind)
        self.critic = tiny_rm(kind, seed=3)
        self.model = ActorCritic(self.policy, self.critic, temperature=section.sampling.temperature)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.policy.parameters()), "role": "policy"},
                {"params": list(self.critic.parameters()), "role": "critic"},
            ],
            lr=section.learning_rate,
            eps=section.adam_eps,
            weight_decay=section.weight_decay,
            fused=True,
        )
        self.collector = Collector(
            self.section,
            accelerator=self.accelerator,
            engine=HFEngine(batch_size=rollout_batch_size) if engine is None else engine,
            reference=tiny_lm(kind, seed=5),
            scorer=ModelScorer(tiny_rm(kind, seed=4), rollout_batch_size),
            stop_ids=STOPS,
            seed=11,
        )
        self.updater = Updater(
            self.section, accelerator=self.accelerator, model=self.model, optimizer=self.optimizer, seed=11
        )

    def collect(self, step=0, prompts=PROMPTS, **more):
        """One response to each prompt."""
        batch = [(prompt, 0) for prompt in prompts]
        return self.collector.collect(self.model, batch, step, stream=ROLLOUT_STREAM, **more)

    def weights(self):
        """A copy of all parameters."""
        return {name: value.detach().clone() for name, value in self.model.named_parameters()}


def made_up_targets(rollout):
    """Advantages and returns that differ at each token, 0 outside the mask."""
    rows, columns = rollout.response_mask.shape
    grid = torch.arange(rows * columns, dtype=torch.float32).view(rows, columns)
    advantages = torch.sin(grid) * rollout.response_mask
    return advantages, (rollout.values + torch.cos(grid)) * rollout.response_mask


def longest_first(rollout):
    """Rows in the order in which they are cut into micro-batches."""
    return sorted(
        range(rollout.num_episodes),
        key=lambda row: (
            -len(rollout.episodes[row].prompt_ids) - len(rollout.episodes[row].response_ids),
            row,
        ),
    )
