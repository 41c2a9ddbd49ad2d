"""The responses behind a number that is not finite, in `<stage>/offending/step-N.parquet`, for a person to look at."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from rlhf.ppo.episodes import Rollout
from rlhf.stages.rollout_records import SCHEMA, as_json, sampled, write_shard

_COLUMNS = (
    *("prompt", "response", "prompt_ids", "response_ids"),
    *("logprobs", "ref_logprobs", "values", "engine_logprobs", "importance_weights"),
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
    written = [as_json(sampled(rollout.episodes[row], tokenizer) | {"step": step}) for row in rows]
    return write_shard(folder / "offending" / f"step-{step}.parquet", written, _SCHEMA)
