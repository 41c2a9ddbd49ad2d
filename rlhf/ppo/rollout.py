"""Collecting a step's rollouts: sample, then one pass each of policy and critic, reference and reward model."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.models.forward import pad_left, score_token_lists
from rlhf.ppo.actor_critic import ActorCritic, response_logprobs
from rlhf.ppo.engines.base import GenerationEngine
from rlhf.ppo.episodes import Episode, Rollout, collate, gather_episodes
from rlhf.ppo.noise import sampling_noise
from rlhf.ppo.prompts import Prompt
from rlhf.recipe.ppo import PPOSection

Job = tuple[int, Prompt, int]
"""Place in the global batch, prompt, sample index."""


class Collector:
    """Turns prompts into a `Rollout`; every rank samples its share and gets the whole."""

    def __init__(
        self,
        section: PPOSection,
        *,
        accelerator: Accelerator,
        engine: GenerationEngine,
        reference: nn.Module,
        reward_model: nn.Module,
        stop_ids: tuple[int, ...],
        seed: int,
    ) -> None:
        self.section = section
        self.accelerator = accelerator
        self.engine = engine
        self.reference = reference
        self.reward_model = reward_model
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
        temperature: float,
    ) -> Rollout:
        """Sample and score one response for every (prompt, sample index) of the global batch."""
        model.eval()
        jobs = [(place, prompt, sample) for place, (prompt, sample) in enumerate(batch)]
        with torch.no_grad():
            local = [
                episode
                for chunk in _chunks(self._share(jobs), self.batch_size)
                for episode in self._episodes(model, chunk, step, stream, temperature)
            ]
        return collate(gather_episodes(local))

    def _share(self, jobs: list[Job]) -> list[Job]:
        """This rank's rows, shortest prompts first, so that little padding is computed."""
        accelerator = self.accelerator
        mine = jobs[accelerator.process_index :: accelerator.num_processes]
        return sorted(mine, key=lambda job: len(job[1].token_ids))

    def _episodes(
        self, model: ActorCritic, jobs: list[Job], step: int, stream: int, temperature: float
    ) -> list[Episode]:
        device = self.accelerator.device
        prompts = [prompt.token_ids for _, prompt, _ in jobs]
        prompt_ids, prompt_mask = pad_left(prompts, device)
        noise = sampling_noise(
            self.seed,
            step,
            [prompt.prompt_id for _, prompt, _ in jobs],
            [sample for _, _, sample in jobs],
            self.section.sampling.max_new_tokens,
            stream=stream,
        )
        with self.accelerator.autocast():
            generation = self.engine.generate(
                model.policy,
                prompt_ids,
                prompt_mask,
                torch.from_numpy(noise).to(device),
                temperature=temperature,
                stop_ids=self.stop_ids,
            )
            input_ids = torch.cat([prompt_ids, generation.response_ids], dim=1)
            attention_mask = torch.cat([prompt_mask, generation.response_mask], dim=1)
            mask = generation.response_mask
            logprobs, _, values = self._forward(model, input_ids, attention_mask, mask)
            ref_logprobs = self._reference_logprobs(input_ids, attention_mask, mask)
        responses = [
            row[kept].tolist() for row, kept in zip(generation.response_ids.cpu(), mask.cpu(), strict=True)
        ]
        with self.accelerator.autocast():
            scores = score_token_lists(
                self.reward_model,
                [prompt + response for prompt, response in zip(prompts, responses, strict=True)],
                batch_size=self.batch_size,
            )
        columns = [_rows(tensor, mask) for tensor in (logprobs, ref_logprobs, values, generation.logprobs)]
        return [
            Episode(
                index=place,
                prompt_id=prompt.prompt_id,
                sample_index=sample,
                prompt_ids=prompt.token_ids,
                response_ids=responses[row],
                logprobs=columns[0][row],
                ref_logprobs=columns[1][row],
                values=columns[2][row],
                engine_logprobs=columns[3][row],
                score=scores[row],
                ended=responses[row][-1] in self.stop_ids,
            )
            for row, (place, prompt, sample) in enumerate(jobs)
        ]

    def _forward(
        self, model: ActorCritic, input_ids: Tensor, attention_mask: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = [model(*part) for part in self._micro(input_ids, attention_mask, mask)]
        logprobs, entropy, values = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
        return logprobs, entropy, values

    def _reference_logprobs(self, input_ids: Tensor, attention_mask: Tensor, mask: Tensor) -> Tensor:
        temperature = self.section.sampling.temperature
        return torch.cat(
            [
                response_logprobs(self.reference, *part, temperature=temperature)[0]
                for part in self._micro(input_ids, attention_mask, mask)
            ]
        )

    def _micro(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The update's micro-batch size here too: the largest batch that is known to fit."""
        size = self.section.per_device_batch_size
        yield from zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _chunks(jobs: list[Job], size: int) -> Iterator[list[Job]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _rows(tensor: Tensor, mask: Tensor) -> list:
    return [row[kept].numpy() for row, kept in zip(tensor.float().cpu(), mask.cpu(), strict=True)]
