"""Evaluation on held-out prompts: the policy sampled and greedy, against the SFT model and its best of n.

The SFT model answers once, with the policy's noise, and its answers stay in the checkpoint. Noise comes from a stream
of its own and is the same at every evaluation, so differences come from the weights, and training does not depend on
how often this runs. Does not select or write anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from rlhf.errors import CheckpointError
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.best_of_n import best_of_n_value, n_of_kl
from rlhf.ppo.episodes import Rollout, collate
from rlhf.ppo.measures import evaluation_metrics, paired_metrics
from rlhf.ppo.noise import EVALUATION_STREAM
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rollout import Collector
from rlhf.ppo.scoring import Answer, Scorer
from rlhf.recipe.ppo import PPOSection


@dataclass(frozen=True)
class Baseline:
    """What the SFT model answered; K is the larger of `samples_per_prompt` and `best_of_n`.

    Attributes:
        scores: [prompts, K] float32.
        gold: [prompts, K] float32, or None without a gold judge.
        response_ids: prompts x `samples_per_prompt` responses, in this order.
        metrics: `eval/sft_...` over the first `samples_per_prompt` of each prompt.
    """

    scores: Tensor
    gold: Tensor | None
    response_ids: list[list[int]]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
        metrics: `eval/...`.
        prompts: the held-out prompts.
        sampled: `samples_per_prompt` rows a prompt, in the order of the prompts.
        gold: [rows of `sampled`] float32, or None without a gold judge.
        greedy: one row a prompt.
        baseline: the SFT model's.
    """

    metrics: dict[str, float]
    prompts: Sequence[Prompt]
    sampled: Rollout
    gold: Tensor | None
    greedy: Rollout
    baseline: Baseline


class Evaluator:
    """Evaluates a policy; every rank samples and judges its share and gets the whole.

    Args:
        section: the recipe's `ppo`.
        accelerator: Accelerate's handle on the processes.
        collector: samples and scores.
        reference: the SFT model.
        prompts: held-out prompts, at least one.
        gold: the judge that PPO does not optimise, if any.
    """

    def __init__(
        self,
        section: PPOSection,
        *,
        accelerator: Accelerator,
        collector: Collector,
        reference: nn.Module,
        prompts: Sequence[Prompt],
        gold: Scorer | None = None,
    ) -> None:
        self.section = section
        self.accelerator = accelerator
        self.collector = collector
        self.reference = reference
        self.prompts = prompts
        self.gold = gold
        self.num_samples = section.evaluation.samples_per_prompt
        self.baseline: Baseline | None = None

    def evaluate(self, model: ActorCritic) -> Evaluation:
        """Sample, judge, compare; the SFT model is sampled at the first call."""
        if self.baseline is None:
            self.baseline = self._sample_baseline(model)
        baseline = self.baseline
        sampled, gold = self._sample(model, self.num_samples)
        greedy = self._collect(model, 1, temperature=0.0)
        metrics = evaluation_metrics(sampled)
        if gold is not None:
            metrics["eval/gold_scores"] = float(gold.mean())
        metrics["eval/greedy_scores"] = float(greedy.scores.mean())
        metrics |= self._against_sft(sampled, baseline)
        if self.section.evaluation.best_of_n:
            metrics |= _against_best_of_n(metrics["eval/kl"], baseline, self.section.evaluation.best_of_n)
        return Evaluation(metrics, self.prompts, sampled, gold, greedy, baseline)

    def state_dict(self) -> dict[str, Any]:
        """The SFT model's answers: sampled anew, a judge that is not a function of them could decide otherwise."""
        return {"baseline": None if self.baseline is None else vars(self.baseline).copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            CheckpointError: the SFT model's answers, or a part of them, are missing.
        """
        baseline = state.get("baseline") or {}
        missing = Baseline.__dataclass_fields__.keys() - baseline.keys()
        if missing:
            raise CheckpointError(f"the checkpoint's SFT answers lack {sorted(missing)}")
        self.baseline = Baseline(**baseline)

    def _sample_baseline(self, model: ActorCritic) -> Baseline:
        wanted = max(self.num_samples, self.section.evaluation.best_of_n)
        # The critic's values are not looked at, but a row has them.
        sft = ActorCritic(self.reference, model.critic, temperature=self.section.sampling.temperature)
        rollout, gold = self._sample(sft, wanted)
        kept = [place for place in range(rollout.num_episodes) if place % wanted < self.num_samples]
        episodes = [rollout.episodes[place] for place in kept]
        measured = evaluation_metrics(collate(episodes))
        if gold is not None:
            measured["eval/gold_scores"] = float(gold[kept].mean())
        return Baseline(
            scores=rollout.scores.view(-1, wanted),
            gold=None if gold is None else gold.view(-1, wanted),
            response_ids=[episode.response_ids for episode in episodes],
            metrics={name.replace("eval/", "eval/sft_", 1): value for name, value in measured.items()},
        )

    def _sample(self, model: ActorCritic, num_samples: int) -> tuple[Rollout, Tensor | None]:
        rollout = self._collect(model, num_samples, temperature=self.section.sampling.temperature)
        return rollout, self._judge(rollout, num_samples)

    def _collect(self, model: ActorCritic, num_samples: int, *, temperature: float) -> Rollout:
        batch = [(prompt, sample) for prompt in self.prompts for sample in range(num_samples)]
        return self.collector.collect(model, batch, 0, stream=EVALUATION_STREAM, temperature=temperature)

    def _judge(self, rollout: Rollout, num_samples: int) -> Tensor | None:
        """The gold judge's scores [B] float32: each rank asks for its share."""
        if self.gold is None:
            return None
        places = range(self.accelerator.process_index, rollout.num_episodes, self.accelerator.num_processes)
        answers = [
            Answer(
                self.prompts[place // num_samples],
                rollout.episodes[place].response_ids,
                rollout.episodes[place].finish_reason,
            )
            for place in places
        ]
        with torch.no_grad(), self.accelerator.autocast():
            scores = self.gold.score(answers)
        mine = [(place, score.value) for place, score in zip(places, scores, strict=True)]
        gathered: list[Any] = gather_object(mine)
        return torch.tensor([value for _, value in sorted(gathered)], dtype=torch.float32)

    def _against_sft(self, sampled: Rollout, baseline: Baseline) -> dict[str, float]:
        responses = [episode.response_ids for episode in sampled.episodes]
        pairs = zip(responses, baseline.response_ids, strict=True)
        return paired_metrics(
            sampled.scores,
            torch.tensor([len(ids) for ids in responses]),
            baseline.scores[:, : self.num_samples].reshape(-1),
            torch.tensor([len(ids) for ids in baseline.response_ids]),
            torch.tensor([ids == sft_ids for ids, sft_ids in pairs]),
        )


def _against_best_of_n(kl: float, baseline: Baseline, largest: int) -> dict[str, float]:
    """What the SFT model's best of n has at the policy's KL."""
    scores = baseline.scores[:, :largest]
    n = n_of_kl(kl, largest)
    metrics = {"eval/best_of_n": n, "eval/best_of_n_scores": best_of_n_value(scores, scores, n)}
    if baseline.gold is not None:
        metrics["eval/best_of_n_gold_scores"] = best_of_n_value(scores, baseline.gold[:, :largest], n)
    return metrics
