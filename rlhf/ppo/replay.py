"""Recorded rollouts in place of sampled ones: the update alone, on the responses and numbers of an earlier run.

The numbers are those of the recorded policies. A changed update moves the policy away from them, so that the ratio
check stops at the second step; `ppo.max_ratio_deviation` lets it go on, off-policy.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np

from rlhf.data.shards import read_step, recorded_steps
from rlhf.errors import DataError, UsageError
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.episodes import Episode, Rollout, collate
from rlhf.ppo.noise import ROLLOUT_STREAM
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rollout import Collector
from rlhf.recipe.ppo import PPOSection

_COLUMNS = (
    *("prompt_ids", "response_ids", "logprobs", "ref_logprobs", "values", "engine_logprobs"),
    *("score", "scores", "finish_reason", "prompt_id", "sample_index", "bootstrap_value", "metadata"),
)
_LATER_COLUMNS = ("importance_weights",)
"""Not in recordings of before they existed, nor needed there."""


class RecordedRollouts:
    """The rollouts in a folder that PPO wrote.

    Args:
        folder: `<run>/ppo/rollouts`.

    Raises:
        UsageError: there is no rollout in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not recorded_steps(folder):
            what = "holds no step-N-rank-R.parquet" if folder.is_dir() else "does not exist"
            raise UsageError(
                f"ppo.sampling.replay: {folder} {what}",
                "Name the rollouts/ folder of a finished PPO stage; a run that replays its own needs another name, "
                "since its folder is set aside when the recipe changes.",
            )

    def step(self, step: int, *, with_bootstrap: bool = False) -> list[Episode]:
        """A step's episodes in the order of its global batch.

        Args:
            step: counts from 0, as the trainer's; the files count from 1.
            with_bootstrap: the values after responses that were cut are needed.

        Raises:
            UsageError: the step was not recorded, or without those values.
            DataError: it is incomplete.
        """
        rows = read_step(self.folder, step + 1, (*_COLUMNS, *_LATER_COLUMNS))
        lacking = set(_COLUMNS) - set(rows[0]) if rows else set[str]()
        if lacking:
            raise DataError(
                f"{self.folder}: step {step + 1} lacks the columns {', '.join(sorted(lacking))}",
                "Record it anew with this version.",
            )
        if with_bootstrap and any(row["bootstrap_value"] is None for row in rows):
            raise UsageError(
                f"ppo.sampling.replay: {self.folder}, step {step + 1} was recorded without ppo.bootstrap_truncated",
                "Record it anew with that knob, or leave the knob out.",
            )
        return [_episode(place, row) for place, row in enumerate(rows)]


class ReplayCollector:
    """Takes a `Collector`'s place: training steps come from a recording, evaluation samples as ever.

    Args:
        collector: samples for evaluation.
        recorded: the recording.
        section: the recipe's `ppo`.

    Raises:
        UsageError: a cut support, which recordings do not hold.
    """

    def __init__(self, collector: Collector, recorded: RecordedRollouts, section: PPOSection) -> None:
        sampling = section.sampling
        if sampling.top_p < 1 or sampling.min_p > 0:
            raise UsageError(
                "ppo.sampling.replay: recordings do not hold which tokens were left by top_p or min_p",
                "Set ppo.sampling.top_p: 1 and min_p: 0 and record anew, or leave replay out.",
            )
        self.collector = collector
        self.recorded = recorded
        self.section = section
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
        """The recorded rollout of a training step, whatever the batch's prompts; else what the collector samples.

        Raises:
            UsageError: a step that was not recorded, another batch size, or tokens that the policy has not.
        """
        if stream != ROLLOUT_STREAM:
            return self.collector.collect(model, batch, step, stream=stream, temperature=temperature)
        episodes = self.recorded.step(step, with_bootstrap=self.section.bootstrap_truncated)
        self._check(episodes, step, _num_tokens(model))
        return collate(episodes)

    def _check(self, episodes: list[Episode], step: int, num_tokens: int) -> None:
        where = f"ppo.sampling.replay: {self.recorded.folder}, step {step + 1}"
        wanted = self.section.global_batch_size
        if len(episodes) != wanted:
            raise UsageError(
                f"{where} has {len(episodes)} responses, ppo.global_batch_size is {wanted}",
                f"Set ppo.global_batch_size: {len(episodes)}.",
            )
        largest = max(max(max(episode.prompt_ids), max(episode.response_ids)) for episode in episodes)
        if largest >= num_tokens:
            raise UsageError(
                f"{where} has the token {largest}, the policy has {num_tokens} tokens: "
                "it was recorded with another tokenizer",
                "Replay it on the model that it was recorded with.",
            )


def _num_tokens(model: ActorCritic) -> int:
    """Rows of the policy's embedding: it can sample those past the tokenizer's last token too."""
    return int(cast(Any, model.policy).get_input_embeddings().num_embeddings)


def _episode(place: int, row: dict[str, Any]) -> Episode:
    logprobs, ref_logprobs, values, engine = (
        np.array(row[name], dtype=np.float32)
        for name in ("logprobs", "ref_logprobs", "values", "engine_logprobs")
    )
    weights = row.get("importance_weights")
    return Episode(
        index=place,
        prompt_id=row["prompt_id"],
        sample_index=row["sample_index"],
        prompt_ids=row["prompt_ids"],
        response_ids=row["response_ids"],
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        values=values,
        engine_logprobs=engine,
        score=row["score"],
        finish_reason=row["finish_reason"],
        scores=row["scores"],
        bootstrap_value=row["bootstrap_value"] or 0.0,
        importance_weights=None if weights is None else np.array(weights, dtype=np.float32),
        metadata=row["metadata"],
    )
