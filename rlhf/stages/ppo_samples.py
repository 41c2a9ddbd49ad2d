"""Held-out prompts with what SFT and PPO model answer, for people: a table an evaluation, and the published model's as `samples.json`."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.durable import write_atomic
from rlhf.errors import CheckpointError
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.evaluation import Evaluation

SAMPLES_FILE = "samples.json"
TABLES_FOLDER = "evaluations"


def write_table(
    folder: Path, tokenizer: PreTrainedTokenizerBase, evaluation: Evaluation, *, step: int, num_shown: int
) -> None:
    """Write `evaluations/step-N.jsonl`, a line for each of the first `num_shown` prompts; rank 0 alone.

    A line has the prompt, the SFT model's first answer, the policy's greedy answer and its sampled ones, each with its
    score, the scores by source where there are any, and the gold judge's where one is asked.
    """
    rows = [_row(tokenizer, evaluation, number) for number in range(min(num_shown, len(evaluation.prompts)))]
    path = _table(folder, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def write_samples(folder: Path, *, step: int) -> None:
    """Write `samples.json`, both models' first answers side by side, from the table of the published step; rank 0 alone.

    Nothing is written where the table is empty.

    Raises:
        CheckpointError: the table is gone.
    """
    path = _table(folder, step)
    if not path.is_file():
        raise CheckpointError(
            f"{path}, which holds the answers of the model to be published, is gone",
            "Run again with --fresh.",
        )
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]
    ]
    samples = [
        {
            "prompt": row["prompt"],
            "sft": row["sft"]["answer"],
            "sft_score": row["sft"]["score"],
            "ppo": row["sampled"][0]["answer"],
            "ppo_score": row["sampled"][0]["score"],
        }
        for row in rows
    ]
    if samples:
        write_atomic(folder / SAMPLES_FILE, json.dumps(samples, ensure_ascii=False, indent=1).encode())


def _table(folder: Path, step: int) -> Path:
    return folder / TABLES_FOLDER / f"step-{step}.jsonl"


def _row(tokenizer: PreTrainedTokenizerBase, evaluation: Evaluation, number: int) -> dict[str, Any]:
    baseline = evaluation.baseline
    each = len(baseline.response_ids) // len(evaluation.prompts)
    sft = {
        "answer": _text(tokenizer, baseline.response_ids[number * each]),
        "score": float(baseline.scores[number, 0]),
    }
    if baseline.gold is not None:
        sft["gold_score"] = float(baseline.gold[number, 0])
    places = range(number * each, (number + 1) * each)
    return {
        "prompt": evaluation.prompts[number].text,
        "sft": sft,
        "greedy": _answer(tokenizer, evaluation.greedy, number, None),
        "sampled": [_answer(tokenizer, evaluation.sampled, place, evaluation.gold) for place in places],
    }


def _answer(
    tokenizer: PreTrainedTokenizerBase, rollout: Rollout, place: int, gold: Tensor | None
) -> dict[str, Any]:
    episode = rollout.episodes[place]
    answer: dict[str, Any] = {"answer": _text(tokenizer, episode.response_ids), "score": episode.score}
    if episode.scores:
        answer["scores"] = episode.scores
    if gold is not None:
        answer["gold_score"] = float(gold[place])
    return answer


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))
