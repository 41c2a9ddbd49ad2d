"""Tasks whose best answer is known, and PPO from its real parts to learn them with a one-layer GPT-2 in seconds."""

import torch
from accelerate import Accelerator
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.noise import EVALUATION_STREAM
from rlhf.ppo.prompts import Prompt, PromptStream
from rlhf.ppo.rewards import ScoreShaping
from rlhf.ppo.rollout import Collector
from rlhf.ppo.scoring import Score
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.update import Updater
from rlhf.recipe.ppo import PPOSection


def gpt2_config(vocab, **more):
    """One layer of width 16; absolute positions, else a prompt of one token and the same token again look alike."""
    return GPT2Config(
        vocab_size=vocab,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=16,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        **more,
    )


class ScoreBy:
    """A scorer that knows the task: `value_of(prompt ids, response ids)`."""

    def __init__(self, value_of):
        self.value_of = value_of

    def score(self, answers):
        """One score an answer."""
        return [Score(float(self.value_of(a.prompt.token_ids, a.response_ids))) for a in answers]


class NoSink:
    """Keeps what the trainer logs, writes nothing."""

    def __init__(self):
        self.history = []

    def log(self, step, metrics):
        self.history.append(metrics)

    def record(self, step, rollout, computed, kl_coef):
        pass

    def save_if_due(self, step, *, due, keep_steps):
        return False


class TinyTask:
    """Policy, critic and reference with their trainer.

    Args:
        value_of: score of a response.
        prompts: lists of token ids.
        vocab: size of the vocabulary.
        num_tokens: longest response.
        seed: of weights and sampling.
        stop_ids: tokens that end a response.
        knobs: of the PPO section.
    """

    def __init__(self, value_of, *, prompts, vocab, num_tokens, seed, stop_ids=(), **knobs):
        torch.manual_seed(seed)
        self.section = section_of(num_tokens, **knobs)
        self.num_tokens, self.value_of = num_tokens, value_of
        policy = GPT2LMHeadModel(gpt2_config(vocab))
        self.reference = GPT2LMHeadModel(gpt2_config(vocab))
        self.reference.load_state_dict(policy.state_dict())
        critic = GPT2ForSequenceClassification(gpt2_config(vocab, num_labels=1))
        self.model = ActorCritic(policy, critic, temperature=1.0)
        self.prompts = [Prompt(n, ids, "") for n, ids in enumerate(prompts)]
        accelerator = Accelerator(cpu=True)
        self.collector = Collector(
            self.section,
            accelerator=accelerator,
            engine=HFEngine(),
            reference=self.reference.eval(),
            scorer=ScoreBy(value_of),
            stop_ids=stop_ids,
            seed=seed,
        )
        self.trainer = self._trainer(accelerator, seed)

    def _trainer(self, accelerator, seed):
        section = self.section
        optimizer = torch.optim.AdamW(
            [
                {"params": list(self.model.policy.parameters()), "role": "policy"},
                {"params": list(self.model.critic.parameters()), "role": "critic"},
            ],
            lr=section.learning_rate,
            eps=section.adam_eps,
            weight_decay=0.0,
            fused=True,
        )
        updater = Updater(section, accelerator=accelerator, model=self.model, optimizer=optimizer, seed=seed)
        return PPOTrainer(
            section,
            accelerator=accelerator,
            model=self.model,
            collector=self.collector,
            updater=updater,
            prompts=PromptStream(self.prompts, seed=seed, num_per_step=section.global_batch_size),
            shaping=ScoreShaping(section.shaping),
            sink=NoSink(),
        )

    def silence_critic(self):
        """Make every value 0; with `vf_coef: 0` it stays so."""
        with torch.no_grad():
            self.model.critic.score.weight.zero_()

    def trained(self):
        """Itself, after all steps."""
        assert self.trainer.train()
        return self

    def mean_score(self, num_samples):
        """Mean over fresh samples that training never drew."""
        batch = [(prompt, sample) for sample in range(num_samples) for prompt in self.prompts]
        rollout = self.collector.collect(self.model, batch, 0, stream=EVALUATION_STREAM)
        scores = [self.value_of(e.prompt_ids, e.response_ids) for e in rollout.episodes]
        return sum(scores) / len(scores)


def section_of(num_tokens, **knobs):
    """A PPO section without KL penalty, one minibatch and a constant learning rate, changed by `knobs`."""
    plain = {
        "global_batch_size": 64,
        "per_device_batch_size": 64,
        "num_minibatches": 1,
        "num_epochs": 4,
        "learning_rate": 1e-2,
        "lr_floor_fraction": 1.0,
        "kl": {"coef": 0.0},
        "sampling": {"max_new_tokens": num_tokens},
    }
    return PPOSection.model_validate(plain | knobs)


def distribution(model, prompt_ids, responses):
    """Probability of each response [N], from one forward pass of the bare model over all of them at once."""
    ids = torch.tensor([prompt_ids + list(response) for response in responses])
    with torch.no_grad():
        table = model(input_ids=ids).logits.double().log_softmax(dim=-1)
    start = len(prompt_ids)
    chosen = table[:, start - 1 : -1].gather(-1, ids[:, start:, None]).squeeze(-1)
    return chosen.sum(dim=1).exp().numpy()
