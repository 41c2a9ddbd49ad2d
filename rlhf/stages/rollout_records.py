"""A step's rollouts as `RolloutRecord`s in Parquet: what is written is what was trained on."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.ppo.episodes import Episode, Rollout
from rlhf.stages.context import StageContext
from rlhf.stages.inputs import ModelInput
from rlhf_schemas import RolloutRecord

ROLLOUTS_FOLDER = "rollouts"
_FLOATS = (
    *("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"),
    *("engine_logprobs", "importance_weights"),
)


def write_rollout(
    context: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    rollout: Rollout,
    computed: dict[str, Tensor],
    *,
    step: int,
    kl_coef: float,
    rank: int,
    num_ranks: int,
) -> Path:
    """Write the rows that `rank` sampled.

    Args:
        rollout: the step's whole batch.
        computed: shaped [B]; rewards, advantages (unwhitened), returns [B, T].
        step: counts from 1.
        kl_coef: the coefficient in force.
        rank, num_ranks: this process among all.
    """
    assert context.inputs.policy is not None
    records = [
        _record(context, tokenizer, rollout, computed, row, step, kl_coef)
        for row in range(rank, rollout.num_episodes, num_ranks)
    ]
    path = context.folder / ROLLOUTS_FOLDER / f"step-{step}-rank-{rank}.parquet"
    return write_shard(path, [as_json(record.model_dump()) for record in records], SCHEMA)


def write_shard(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> Path:
    """Write rows as Parquet, in one step: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_suffix(".writing")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), writing)
    writing.replace(path)
    return path


def sampled(episode: Episode, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What is known of an episode before the update, under the record's names."""
    weights = episode.importance_weights
    return {
        "prompt": str(tokenizer.decode(episode.prompt_ids)),
        "response": str(tokenizer.decode(episode.response_ids, skip_special_tokens=True)),
        "prompt_ids": episode.prompt_ids,
        "response_ids": episode.response_ids,
        "logprobs": episode.logprobs.tolist(),
        "ref_logprobs": episode.ref_logprobs.tolist(),
        "values": episode.values.tolist(),
        "engine_logprobs": episode.engine_logprobs.tolist(),
        "importance_weights": None if weights is None else weights.tolist(),
        "score": episode.score,
        "scores": episode.scores,
        "finish_reason": episode.finish_reason,
        "prompt_id": episode.prompt_id,
        "sample_index": episode.sample_index,
        "bootstrap_value": episode.bootstrap_value,
        "metadata": episode.metadata,
    }


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its open mappings as JSON text, so that every shard has one schema."""
    return row | {"scores": json.dumps(row["scores"]), "metadata": json.dumps(row["metadata"])}


def _record(
    context: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    rollout: Rollout,
    computed: dict[str, Tensor],
    row: int,
    step: int,
    kl_coef: float,
) -> RolloutRecord:
    section = context.recipe.ppo
    assert section is not None
    episode = rollout.episodes[row]
    length = len(episode.response_ids)
    rewards, advantages, returns = (
        computed[name][row, :length].tolist() for name in ("rewards", "advantages", "returns")
    )
    known = sampled(episode, tokenizer) | {
        "scores": episode.scores or {"reward_model": episode.score},
        "bootstrap_value": episode.bootstrap_value if section.bootstrap_truncated else None,
    }
    return RolloutRecord(
        **known,
        rewards=rewards,
        advantages=advantages,
        returns=returns,
        shaped_score=float(computed["shaped"][row]),
        policy=_name(context.inputs.policy),
        reward_model=context.scored_by,
        step=step,
        seed=context.recipe.stage_seed("ppo"),
        kl_coef=kl_coef,
    )


def _name(model: ModelInput | None) -> str:
    assert model is not None
    return model.reference or str(model.path)


SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt", "response")),
        *((name, pa.list_(pa.int64())) for name in ("prompt_ids", "response_ids")),
        *((name, pa.list_(pa.float32())) for name in _FLOATS),
        *((name, pa.float64()) for name in ("score", "shaped_score", "kl_coef", "bootstrap_value")),
        *((name, pa.string()) for name in ("finish_reason", "policy", "reward_model", "scores", "metadata")),
        *((name, pa.int64()) for name in ("step", "seed", "prompt_id", "sample_index")),
    ]
)
