"""The responses behind a number that is not finite, in `<stage>/offending/step-N.parquet`, for a person to look at."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from rlhf.ppo.episodes import Rollout
from rlhf.stages.rollout_records import SCHEMA

_COLUMNS = (
    *("prompt", "response", "prompt_ids", "response_ids"),
    *("logprobs", "ref_logprobs", "values", "engine_logprobs"),
    *("score", "scores", "finish_reason", "step", "prompt_id", "sample_index", "bootstrap_value", "metadata"),
)
_SCHEMA = pa.schema([SCHEMA.field(name) for name in _COLUMNS])


def write_offending(
    folder: Path, rollout: Rollout, rows: Sequence[int], step: int, tokenizer: PreTrainedTokenizerBase
) -> Path:
    """Write some rows of a rollout as they are, finite or not; on one rank, since each holds all of them.

    The columns are those of rollout records that are known before the update, without the record's checks.

    Args:
        folder: the stage's folder.
        rollout: the step's whole batch.
        rows: which of them.
        step: counts from 1.
        tokenizer: turns tokens into text.

    Returns:
        The file; `rlhf rollouts <stage folder>/offending` shows it.
    """
    path = folder / "offending" / f"step-{step}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_suffix(".writing")
    written = [_row(rollout, row, step, tokenizer) for row in rows]
    pq.write_table(pa.Table.from_pylist(written, schema=_SCHEMA), writing)
    writing.replace(path)
    return path


def _row(rollout: Rollout, row: int, step: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    episode = rollout.episodes[row]
    return {
        "prompt": str(tokenizer.decode(episode.prompt_ids)),
        "response": str(tokenizer.decode(episode.response_ids, skip_special_tokens=True)),
        "prompt_ids": episode.prompt_ids,
        "response_ids": episode.response_ids,
        "logprobs": episode.logprobs.tolist(),
        "ref_logprobs": episode.ref_logprobs.tolist(),
        "values": episode.values.tolist(),
        "engine_logprobs": episode.engine_logprobs.tolist(),
        "score": episode.score,
        "scores": json.dumps(episode.scores),
        "finish_reason": episode.finish_reason,
        "step": step,
        "prompt_id": episode.prompt_id,
        "sample_index": episode.sample_index,
        "bootstrap_value": episode.bootstrap_value,
        "metadata": json.dumps(episode.metadata),
    }
