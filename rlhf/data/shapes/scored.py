"""Scored answers: a prompt, one answer and its score a row."""

from typing import cast

from rlhf.data.shapes.alpaca import join_input
from rlhf.data.shapes.layout import Answer, Fields, Layout, MisshapenError, need
from rlhf.data.shapes.scores import read_score
from rlhf.recipe.data import RecordKind


def prompt_of_row(fields: Fields) -> object:
    """The prompt: `prompt`, or Alpaca's instruction with its input, or the input alone.

    Raises:
        MisshapenError: if the row has none, or it is neither text nor a list of messages.
    """
    if "prompt" not in fields and "instruction" in fields:
        return join_input(fields)
    name = "input" if "input" in fields and "prompt" not in fields else "prompt"
    prompt = need(fields, name)
    if not isinstance(prompt, str | list):
        raise MisshapenError("wrong_type", "should be text or a list of messages", field=name, value=prompt)
    return cast(object, prompt)


def read_answer(fields: Fields, kind: RecordKind) -> tuple[object, list[Answer]]:
    """The prompt and its one answer; where prompts alone are wanted, none.

    Raises:
        MisshapenError: if a part is missing, or the score is none.
    """
    prompt = prompt_of_row(fields)
    if kind == "prompt":
        return prompt, []
    return prompt, [Answer(need(fields, "response"), read_score(fields.get("score"), "score"))]


def _fits(fields: Fields, kind: RecordKind) -> bool:
    prompted = any(isinstance(fields.get(name), str | list) for name in ("prompt", "instruction", "input"))
    scored = isinstance(fields.get("score"), int | float | str)
    return prompted and scored and isinstance(fields.get("response"), str | list)


SCORED = Layout(
    columns={
        "prompt": ("prompt", "question", "query"),
        "instruction": ("instruction",),
        "input": ("input",),
        "response": ("response", "output", "answer", "completion"),
        "score": ("score", "reward", "rating", "label", "kto_tag"),
    },
    fits=_fits,
    answers=read_answer,
    grouped=True,
)
"""prompt, response, score."""
