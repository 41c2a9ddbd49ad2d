"""Rollouts as older tutorials write them: tables of input, action, reward and state."""

from rlhf.data.shapes.layout import Answer, Fields, Layout, need, need_text
from rlhf.data.shapes.scores import read_score
from rlhf.recipe.data import RecordKind


def _fits(fields: Fields, kind: RecordKind) -> bool:
    prompt, answer = _names(fields)
    told = "action" in fields or "state" in fields
    texts = isinstance(fields.get(prompt), str) and isinstance(fields.get(answer), str)
    return told and texts and isinstance(fields.get("reward"), int | float | str)


def _names(fields: Fields) -> tuple[str, str]:
    """The fields that hold the prompt and the answer: a state counts where there is no input."""
    return (
        "state" if "state" in fields and "input" not in fields else "input",
        "response" if "response" in fields and "action" not in fields else "action",
    )


def _answers(fields: Fields, kind: RecordKind) -> tuple[object, list[Answer]]:
    prompt, answer = _names(fields)
    text = need_text(fields, prompt)
    if kind == "prompt":
        return text, []
    return text, [Answer(need(fields, answer), read_score(fields.get("reward"), "reward"))]


ROLLOUTS = Layout(
    columns={
        "input": ("input", "query", "prompt"),
        "state": ("state", "observation"),
        "action": ("action",),
        "response": ("response",),
        "reward": ("reward", "score"),
    },
    fits=_fits,
    answers=_answers,
    grouped=True,
)
"""input, action, reward."""
