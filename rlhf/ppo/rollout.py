"""Collecting a step's rollouts: sample all, then one pass each of policy and critic and of the reference, then the scores."""

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.models.forward import pad_left, pad_right, sequence_scores
from rlhf.models.offload import on_device
from rlhf.models.transfer import to_device
from rlhf.ppo.actor_critic import ActorCritic, extent_of, response_logprobs
from rlhf.ppo.engines.base import Generation, GenerationEngine
from rlhf.ppo.episodes import Episode, FinishReason, Rollout, collate, gather_episodes, pad_supports
from rlhf.ppo.importance import importance_weights
from rlhf.ppo.micro_batches import MicroBatches, pass_without_gradient
from rlhf.ppo.noise import sampling_noise
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.scoring import Answer, Scorer
from rlhf.ppo.sharding import passes_talk
from rlhf.recipe.ppo import PPOSection

Job = tuple[int, Prompt, int]
"""Place in the global batch, prompt, sample index."""


@dataclass(frozen=True)
class _Response:
    """What the engine sampled for a prompt; see `Episode`."""

    ids: list[int]
    logprobs: np.ndarray
    finish_reason: FinishReason
    support: list[np.ndarray] | None
    needs_weights: bool


@dataclass(frozen=True)
class _Measured:
    """What the training forward passes say about a response; see `Episode`."""

    logprobs: np.ndarray
    ref_logprobs: np.ndarray
    values: np.ndarray
    bootstrap_value: float


class Collector:
    """Turns prompts into a `Rollout`; every rank samples and scores its share and gets the whole.

    Args:
        section: the recipe's `ppo`.
        accelerator: Accelerate's handle on the processes.
        engine: samples.
        reference: the causal LM that the KL penalty is measured from; it is on the accelerator while measuring only,
            where it lies in the CPU's memory.
        scorer: scores this rank's responses, all in one call.
        stop_ids: tokens that end a response.
        seed: of the sampling noise.
        micro_batches: the update's, so that what was found to fit there is known here; the section's where None.

    Attributes:
        seconds: what the last `collect` took, as metrics: to sample, and all after it.
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
        micro_batches: MicroBatches | None = None,
    ) -> None:
        self.section = section
        self.accelerator = accelerator
        self.engine = engine
        self.reference = reference
        self.scorer = scorer
        self.stop_ids = stop_ids
        self.seed = seed
        self.micro_batches = micro_batches or MicroBatches(section)
        self.seconds: dict[str, float] = {}

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
        started = time.perf_counter()
        jobs = [(place, prompt, sample) for place, (prompt, sample) in enumerate(batch)]
        mine = self._share(jobs)
        with _without_gradients(self.accelerator):
            responses = self._generate(model, mine, step, stream, temperature)
            sampled = time.perf_counter()
            with on_device(self.reference, self._device):
                measured = self._measure(model, mine, responses)
        episodes = [self._episode(*each) for each in zip(mine, responses, measured, strict=True)]
        with torch.no_grad():  # a source may be foreign code, which inference mode would surprise
            scored = self._scored(mine, episodes)
        rollout = collate(gather_episodes(scored))
        self.seconds = {
            "time/generate_seconds": sampled - started,
            "time/score_seconds": time.perf_counter() - sampled,
        }
        return rollout

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

    def _generate(
        self, model: ActorCritic, jobs: list[Job], step: int, stream: int, temperature: float | None
    ) -> list[_Response]:
        sampling = self.section.sampling
        noise = sampling_noise(
            self.seed,
            step,
            [prompt.prompt_id for _, prompt, _ in jobs],
            [sample for _, _, sample in jobs],
            sampling.max_new_tokens,
            stream=stream,
        )
        with self.accelerator.autocast():
            generation = self.engine.generate(
                model.policy,
                [prompt.token_ids for _, prompt, _ in jobs],
                torch.from_numpy(noise),
                temperature=sampling.temperature if temperature is None else temperature,
                stop_ids=self.stop_ids,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
            )
        return _responses(generation)

    def _measure(self, model: ActorCritic, jobs: list[Job], responses: list[_Response]) -> list[_Measured]:
        """Log-probabilities and values of this rank's rows, in micro-batches as the update's."""
        lengths = [
            (len(prompt.token_ids), len(response.ids))
            for (_, prompt, _), response in zip(jobs, responses, strict=True)
        ]

        def measure(rows: list[int]) -> tuple[Tensor, ...]:
            prompts = [jobs[row][1].token_ids for row in rows]
            with self.accelerator.autocast():
                return self._measure_rows(model, prompts, [responses[row] for row in rows])

        parts = self.micro_batches.split(range(len(jobs)), lengths)
        measured = pass_without_gradient(parts, lengths, measure)
        return [_measured(measured[row], len(responses[row].ids)) for row in range(len(jobs))]

    def _measure_rows(
        self, model: ActorCritic, prompts: list[list[int]], responses: list[_Response]
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities, the reference's and values [B, 3, T], and bootstrap values [B]; float32."""
        device, temperature = self._device, self.section.sampling.temperature
        prompt_ids, prompt_mask = pad_left(prompts, device)
        response_ids, mask = pad_right([response.ids for response in responses], device)
        part = [torch.cat([prompt_ids, response_ids], dim=1), torch.cat([prompt_mask, mask], dim=1), mask]
        if responses[0].support is not None:
            part.append(pad_supports([response.support for response in responses], mask.shape[1]).to(device))
        extent = extent_of(
            [(len(prompt), len(each.ids)) for prompt, each in zip(prompts, responses, strict=True)]
        )
        outputs = model(*part, extent=extent)
        ref_logprobs, _ = response_logprobs(self.reference, *part, temperature=temperature, extent=extent)
        columns = torch.stack([outputs["logprobs"], ref_logprobs, outputs["values"]], dim=1).float()
        cut = [response.finish_reason == "length" for response in responses]
        if not (self.section.bootstrap_truncated and any(cut)):
            return columns, columns.new_zeros(len(responses))
        last = sequence_scores(model.critic, *part[:2], width=extent.width)
        return columns, last * to_device(torch.tensor(cut), device)

    def _episode(self, job: Job, response: _Response, measured: _Measured) -> Episode:
        """Sampled and measured, not yet scored."""
        place, prompt, sample = job
        weights = None
        if response.needs_weights:
            cap = self.section.sampling.vllm_settings.max_importance_weight
            weights = importance_weights(measured.logprobs, response.logprobs, cap)
        return Episode(
            index=place,
            prompt_id=prompt.prompt_id,
            sample_index=sample,
            prompt_ids=prompt.token_ids,
            response_ids=response.ids,
            logprobs=measured.logprobs,
            ref_logprobs=measured.ref_logprobs,
            values=measured.values,
            engine_logprobs=response.logprobs,
            score=math.nan,
            finish_reason=response.finish_reason,
            bootstrap_value=measured.bootstrap_value,
            support=response.support,
            importance_weights=weights,
            metadata={} if prompt.record is None else prompt.record.metadata,
        )

    @property
    def _device(self) -> torch.device:
        return self.accelerator.device


def _without_gradients(accelerator: Accelerator) -> AbstractContextManager[Any]:
    """PyTorch's inference mode saves a CPU a twentieth of the time to sample and score. Elsewhere the device is what one
    waits for, and whole weights or caches that were made in that mode could not be used outside of it.
    """
    on_cpu = accelerator.device.type == "cpu" and not passes_talk(accelerator)
    return torch.inference_mode() if on_cpu else torch.no_grad()


def _responses(generation: Generation) -> list[_Response]:
    ids = _rows(generation.response_ids, generation.response_mask)
    logprobs = _rows(generation.logprobs.float(), generation.response_mask)
    supports = generation.support or [None] * len(ids)
    return [
        _Response(row.tolist(), each, reason, support, generation.needs_weights)
        for row, each, reason, support in zip(ids, logprobs, generation.finish_reasons, supports, strict=True)
    ]


def _measured(row: tuple[Tensor, ...], num_tokens: int) -> _Measured:
    columns, bootstrap_value = row
    logprobs, ref_logprobs, values = columns[:, :num_tokens].clone().numpy()
    return _Measured(logprobs, ref_logprobs, values, float(bootstrap_value))


def _rows(tensor: Tensor, mask: Tensor) -> list[np.ndarray]:
    """Each row's kept numbers, on the CPU."""
    return [row[kept].numpy() for row, kept in zip(tensor.cpu(), mask.cpu(), strict=True)]
