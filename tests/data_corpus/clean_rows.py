"""Clean rows of every kind of record and every shape, made from the clean texts."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from data_corpus.clean_texts import TRIPLES
from rlhf.recipe.data import RecordKind, Shape

Values = dict[str, object]

SYSTEM = {"role": "system", "content": "Answer briefly, in the user's language."}


def user(text: str) -> Values:
    return {"role": "user", "content": text}


def assistant(text: str) -> Values:
    return {"role": "assistant", "content": text}


@dataclass(frozen=True)
class Clean:
    """Rows without a fault, of one kind and one layout."""

    kind: RecordKind
    rows: tuple[Values, ...]
    shape: Shape = "records"
    formats: tuple[str, ...] = ("jsonl", "json", "csv", "tsv", "parquet", "arrow")
    """The formats that can hold such rows; each text one also compressed."""


def _all(make: Callable[[str, str, str], Values]) -> tuple[Values, ...]:
    return tuple(make(*triple) for triple in TRIPLES)


def _rollout(question: str, good: str, bad: str) -> Values:
    length = 2 + len(good) % 3
    numbers = [round(-0.25 * (i + 1), 4) for i in range(length)]
    per_token = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
    return {
        "prompt": question,
        "response": good,
        "prompt_ids": [5, 6, 7],
        "response_ids": [*range(10, 9 + length), 2],
        **dict.fromkeys(per_token, numbers),
        "score": 0.5 + len(bad) % 7,
        "finish_reason": "eos",
        "policy": "tiny-ppo@3",
        "reward_model": "tiny-reward@1",
        "step": 12,
        "seed": 0,
    }


def _transcript(question: str, answer: str) -> str:
    return f"\n\nHuman: {question}\n\nAssistant: {answer}\n\nHuman: Are you sure?\n\nAssistant: I am."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _rated(question: str, good: str, bad: str) -> Values:
    return {"prompt": question, "responses": [bad, good], "scores": [2.0, 4.5]}


CLEAN: dict[str, Clean] = {
    "sft": Clean(
        "sft",
        _all(
            lambda q, good, bad: {
                "prompt": q,
                "completion": good,
                "weight": 1.0,
                "metadata": {"source": "desk", "length": len(good)},
            }
        ),
    ),
    "sft-messages": Clean("sft", _all(lambda q, good, bad: {"messages": [SYSTEM, user(q), assistant(good)]})),
    "sft-text": Clean("sft", _all(lambda q, good, bad: {"text": f"{q}\n{good}"})),
    "sft-lines": Clean(
        "sft",
        _all(lambda q, good, bad: {"text": _one_line(f"{q} {good}")}),
        formats=("text", "jsonl", "json", "csv", "tsv", "parquet", "arrow"),
    ),
    "sft-either": Clean(
        "sft", _all(lambda q, good, bad: {"prompt": q, "completion": good, "messages": None})
    ),
    "preference": Clean(
        "preference",
        _all(lambda q, good, bad: {"prompt": q, "chosen": good, "rejected": bad, "margin": 1.5}),
    ),
    "preference-messages": Clean(
        "preference",
        _all(
            lambda q, good, bad: {
                "prompt": [user(q)],
                "chosen": [assistant(good)],
                "rejected": [assistant(bad)],
            }
        ),
    ),
    "preference-implicit": Clean(
        "preference",
        _all(
            lambda q, good, bad: {
                "chosen": [user(q), assistant(good)],
                "rejected": [user(q), assistant(bad)],
            }
        ),
    ),
    "prompt": Clean("prompt", _all(lambda q, good, bad: {"prompt": q})),
    "prompt-messages": Clean("prompt", _all(lambda q, good, bad: {"prompt": [SYSTEM, user(q)]})),
    "prompt-lines": Clean("prompt", _all(lambda q, good, bad: {"text": _one_line(q)}), formats=("text",)),
    "rollout": Clean("rollout", _all(_rollout)),
    "alpaca": Clean(
        "sft",
        _all(lambda q, good, bad: {"instruction": q, "input": "", "output": good}),
        shape="alpaca",
    ),
    "sharegpt": Clean(
        "sft",
        _all(
            lambda q, good, bad: {
                "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": good}]
            }
        ),
        shape="sharegpt",
    ),
    "openai": Clean(
        "sft",
        _all(
            lambda q, good, bad: {
                "messages": [
                    {"role": "developer", "content": "Be brief."},
                    {"role": "user", "content": q},
                    {"role": "assistant", "content": good},
                ]
            }
        ),
        shape="openai",
    ),
    "transcript": Clean(
        "preference",
        _all(lambda q, good, bad: {"chosen": _transcript(q, good), "rejected": _transcript(q, bad)}),
        shape="transcript",
    ),
    "scored": Clean(
        "preference",
        tuple(
            {"prompt": q, "response": answer, "score": score}
            for q, good, bad in TRIPLES
            for answer, score in ((bad, 0.25), (good, 0.75))
        ),
        shape="scored",
    ),
    "rated": Clean("preference", _all(_rated), shape="rated"),
    "binarized": Clean(
        "preference",
        _all(
            lambda q, good, bad: {
                "prompt": q,
                "chosen": [user(q), assistant(good)],
                "rejected": [user(q), assistant(bad)],
                "score_chosen": 8.5,
                "score_rejected": 3.0,
            }
        ),
        shape="binarized",
    ),
    "rollouts": Clean(
        "prompt",
        _all(lambda q, good, bad: {"input": q, "action": good, "reward": 0.5 + len(bad) % 5}),
        shape="rollouts",
    ),
    "alpaca-preference": Clean(
        "preference",
        _all(lambda q, good, bad: {"instruction": q, "input": "In a line.", "chosen": good, "rejected": bad}),
        shape="alpaca",
    ),
    "sharegpt-preference": Clean(
        "preference",
        _all(
            lambda q, good, bad: {
                "conversations": [{"from": "human", "value": q}],
                "chosen": {"from": "gpt", "value": good},
                "rejected": {"from": "gpt", "value": bad},
            }
        ),
        shape="sharegpt",
    ),
    "openai-preference": Clean(
        "preference",
        _all(
            lambda q, good, bad: {
                "input": {"messages": [SYSTEM, user(q)]},
                "preferred_output": [assistant(good)],
                "non_preferred_output": [assistant(bad)],
            }
        ),
        shape="openai",
    ),
    "transcript-sft": Clean(
        "sft", _all(lambda q, good, bad: {"text": _transcript(q, good)}), shape="transcript"
    ),
    "scored-labels": Clean(
        "preference",
        tuple(
            {"prompt": q, "completion": answer, "label": answer == good}
            for answers in (0, 1)
            for q, good, bad in TRIPLES
            for answer in ((good, bad)[answers],)
        ),
        shape="scored",
    ),
}
"""Name -> clean rows."""
_AS_OTHER_KINDS: tuple[tuple[str, RecordKind], ...] = (
    ("alpaca", "prompt"),
    ("sharegpt", "prompt"),
    ("openai", "prompt"),
    ("transcript", "sft"),
    ("transcript", "prompt"),
    ("scored", "sft"),
    ("rated", "sft"),
    ("rated", "prompt"),
    ("binarized", "sft"),
    ("binarized", "prompt"),
    ("rollouts", "sft"),
)
CLEAN.update({f"{name}-as-{kind}": replace(CLEAN[name], kind=kind) for name, kind in _AS_OTHER_KINDS})
