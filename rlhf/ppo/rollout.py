"""Collecting a step's rollouts: sample, then one pass each of policy and critic and of the reference, then the scores."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.models.forward import pad_left, sequence_scores
from rlhf.models.offload import on_device
from rlhf.ppo.actor_critic import ActorCritic, response_logprobs
from rlhf.ppo.engines.base import Generation, GenerationEngine
from rlhf.ppo.episodes import Episode, Rollout, collate, gather_episodes, pad_supports
from rlhf.ppo.noise import sampling_noise
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.scoring import Answer, Scorer
from rlhf.recipe.ppo import PPOSection

Job = tuple[int, Prompt, int]
"""Place in the global batch, prompt, sample index."""


class Collector:
    """Turns prompts into a `Rollout`; every rank samples and scores its share and gets the whole.

    Args:
        section: the recipe's `ppo`.
        accelerator: Accelerate's handle on the processes.
        engine: samples.
        reference: the causal LM that the KL penalty is measured from; it is on the accelerator while sampling only,
            where it lies in the CPU's memory.
        scorer: scores this rank's responses, all in one call.
        stop_ids: tokens that end a response.
        seed: of the sampling noise.
    """

    def __init__(
        self,
        section: PPOSection,
        *,
        accelerator: Accelerator,
        engine: GenerationEngine,
        reference: nn.Module,
        scorer: Scorer,
        stop_ids: tuple[int, ...],
        seed: int,
    ) -> None:
        self.section = section
        self.accelerator = accelerator
        self.engine = engine
        self.reference = reference
        self.scorer = scorer
        self.stop_ids = stop_ids
        self.seed = seed
        self.batch_size = section.per_device_rollout_batch_size or section.per_device_batch_size

    def collect(
        self,
        model: ActorCritic,
        batch: list[tuple[Prompt, int]],
        step: int,
        *,
        stream: int,
        temperature: float | None = None,
    ) -> Rollout:
        """Sample and score one response for every (prompt, sample index) of the global batch.

        Args:
            model: whose policy answers, and whose critic values the answers.
            batch: of all ranks.
            step: counts from 0; decides the noise.
            stream: rollouts and evaluation draw from streams of their own.
            temperature: of sampling alone; the section's where None. 0 takes the likeliest tokens of the whole
                vocabulary. Log-probabilities are always taken at the section's temperature, and then (at 0) over
                the whole vocabulary.
        """
        model.eval()
        jobs = [(place, prompt, sample) for place, (prompt, sample) in enumerate(batch)]
        mine = self._share(jobs)
        with torch.no_grad():
            with on_device(self.reference, self._device):
                sampled = [
                    episode
                    for chunk in _chunks(mine, self.batch_size)
                    for episode in self._episodes(model, chunk, step, stream, temperature)
                ]
            scored = self._scored(mine, sampled)
        return collate(gather_episodes(scored))

    def _share(self, jobs: list[Job]) -> list[Job]:
        """This rank's rows, shortest prompts first, so that little padding is computed."""
        accelerator = self.accelerator
        mine = jobs[accelerator.process_index :: accelerator.num_processes]
        return sorted(mine, key=lambda job: len(job[1].token_ids))

    def _scored(self, jobs: list[Job], episodes: list[Episode]) -> list[Episode]:
        """The same episodes with their scores; one call, so that a source can batch as it likes."""
        answers = [
            Answer(prompt, episode.response_ids, episode.finish_reason)
            for (_, prompt, _), episode in zip(jobs, episodes, strict=True)
        ]
        with self.accelerator.autocast():
            scores = self.scorer.score(answers)
        return [
            replace(episode, score=score.value, scores=score.by_source)
            for episode, score in zip(episodes, scores, strict=True)
        ]

    def _episodes(
        self, model: ActorCritic, jobs: list[Job], step: int, stream: int, temperature: float | None
    ) -> list[Episode]:
        """Sampled and measured, not yet scored."""
        prompt_ids, prompt_mask = pad_left([prompt.token_ids for _, prompt, _ in jobs], self._device)
        with self.accelerator.autocast():
            generation = self._generate(model, jobs, prompt_ids, prompt_mask, step, stream, temperature)
            mask = generation.response_mask
            input_ids = torch.cat([prompt_ids, generation.response_ids], dim=1)
            attention_mask = torch.cat([prompt_mask, mask], dim=1)
            columns = self._measure(model, input_ids, attention_mask, mask, generation.support)
            bootstrap = self._bootstrap_values(model, input_ids, attention_mask, generation)
        responses = _rows(generation.response_ids, mask)
        logprobs, ref_logprobs, values, engine_logprobs = (
            _rows(column.float(), mask) for column in (*columns, generation.logprobs)
        )
        return [
            Episode(
                index=place,
                prompt_id=prompt.prompt_id,
                sample_index=sample,
                prompt_ids=prompt.token_ids,
                response_ids=responses[row].tolist(),
                logprobs=logprobs[row],
                ref_logprobs=ref_logprobs[row],
                values=values[row],
                engine_logprobs=engine_logprobs[row],
                score=math.nan,
                finish_reason=generation.finish_reasons[row],
                bootstrap_value=bootstrap[row],
                support=None if generation.support is None else generation.support[row],
                metadata={} if prompt.record is None else prompt.record.metadata,
            )
            for row, (place, prompt, sample) in enumerate(jobs)
        ]

    def _generate(
        self,
        model: ActorCritic,
        jobs: list[Job],
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        step: int,
        stream: int,
        temperature: float | None,
    ) -> Generation:
        sampling = self.section.sampling
        noise = sampling_noise(
            self.seed,
            step,
            [prompt.prompt_id for _, prompt, _ in jobs],
            [sample for _, _, sample in jobs],
            sampling.max_new_tokens,
            stream=stream,
        )
        return self.engine.generate(
            model.policy,
            prompt_ids,
            prompt_mask,
            torch.from_numpy(noise).to(self._device),
            temperature=sampling.temperature if temperature is None else temperature,
            stop_ids=self.stop_ids,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )

    def _measure(
        self,
        model: ActorCritic,
        input_ids: Tensor,
        attention_mask: Tensor,
        mask: Tensor,
        support: list[list[np.ndarray]] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of policy and reference, and values, in the update's micro-batches: they are known to fit."""
        temperature, size = self.section.sampling.temperature, self.section.per_device_batch_size
        logprobs: list[Tensor] = []
        ref_logprobs: list[Tensor] = []
        values: list[Tensor] = []
        for start in range(0, len(input_ids), size):
            rows = slice(start, start + size)
            part = [input_ids[rows], attention_mask[rows], mask[rows]]
            if support is not None:
                part.append(pad_supports(list(support[rows]), mask.shape[1]).to(self._device))
            ours, _, part_values = model(*part)
            logprobs.append(ours)
            values.append(part_values)
            ref_logprobs.append(response_logprobs(self.reference, *part, temperature=temperature)[0])
        return torch.cat(logprobs), torch.cat(ref_logprobs), torch.cat(values)

    def _bootstrap_values(
        self, model: ActorCritic, input_ids: Tensor, attention_mask: Tensor, generation: Generation
    ) -> list[float]:
        """The critic's value at the last token of each response that was cut; 0 for one that ended, or without the knob."""
        if not self.section.bootstrap_truncated:
            return [0.0] * len(input_ids)
        size = self.section.per_device_batch_size
        parts = zip(input_ids.split(size), attention_mask.split(size), strict=True)
        values = torch.cat([sequence_scores(model.critic, *part) for part in parts]).tolist()
        return [
            value if reason == "length" else 0.0
            for value, reason in zip(values, generation.finish_reasons, strict=True)
        ]

    @property
    def _device(self) -> torch.device:
        return self.accelerator.device


def _chunks(jobs: list[Job], size: int) -> Iterator[list[Job]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _rows(tensor: Tensor, mask: Tensor) -> list[np.ndarray]:
    """Each row's kept numbers, on the CPU."""
    return [row[kept].numpy() for row, kept in zip(tensor.cpu(), mask.cpu(), strict=True)]
