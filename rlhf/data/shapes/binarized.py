"""UltraFeedback binarised and UltraChat: a prompt as text beside conversations that contain it."""

from typing import cast

from rlhf.data.shapes.layout import Fields, Layout, MisshapenError, need, need_text
from rlhf.data.shapes.scores import read_score
from rlhf.data.shapes.turns import Turn, first_turn, pair_of, prompt_of, read_turns
from rlhf.recipe.data import RecordKind

_REMEDY = (
    "Correct the prompt or the conversation, or remove the column `prompt`: the conversation alone will do."
)


def _fits(fields: Fields, kind: RecordKind) -> bool:
    pair = _starts_with_prompt(fields.get("chosen")) and _starts_with_prompt(fields.get("rejected"))
    prompted = isinstance(fields.get("prompt"), str)
    if kind == "preference":
        return pair and (prompted or "score_chosen" in fields)
    return prompted and (pair or _starts_with_prompt(fields.get("messages")))


def _starts_with_prompt(value: object) -> bool:
    return isinstance(value, list) and first_turn(cast(object, value)).get("role") in ("system", "user")


def _convert(fields: Fields, kind: RecordKind) -> Fields:
    if kind == "preference":
        return _pair(fields)
    if kind == "sft":
        name = "messages" if "messages" in fields else "chosen"
        return {"messages": _conversation(fields, name, learnt=True)}
    if "chosen" in fields and "rejected" in fields:
        pair = _pair(fields)
        return {"prompt": pair.get("prompt", pair["chosen"])}
    if "messages" in fields:
        turns = _conversation(fields, "messages")
        first = next((index for index, turn in enumerate(turns) if turn["role"] == "user"), None)
        return {"prompt": turns[: first + 1] if first is not None else prompt_of(turns)}
    return {"prompt": [{"role": "user", "content": need_text(fields, "prompt")}]}


def _pair(fields: Fields) -> Fields:
    record: Fields = pair_of(_conversation(fields, "chosen"), _conversation(fields, "rejected"))
    if "score_chosen" in fields and "score_rejected" in fields:
        margin = read_score(fields["score_chosen"], "score_chosen") - read_score(
            fields["score_rejected"], "score_rejected"
        )
        if margin >= 0:
            record["margin"] = margin
    return record


def _conversation(fields: Fields, name: str, *, learnt: bool = False) -> list[Turn]:
    turns = read_turns(need(fields, name), name, learnt=learnt)
    if "prompt" not in fields:
        return turns
    asked = next((turn["content"] for turn in turns if turn["role"] == "user"), None)
    prompt = need_text(fields, "prompt")
    if isinstance(asked, str) and asked.strip() != prompt.strip():
        message = f"is not the text of the first user's turn in {name}"
        raise MisshapenError("no_common_prompt", message, field="prompt", value=prompt, remedy=_REMEDY)
    return turns


BINARIZED = Layout(
    columns={
        "prompt": ("prompt",),
        "chosen": ("chosen",),
        "rejected": ("rejected",),
        "messages": ("messages",),
        "score_chosen": ("score_chosen", "chosen_score", "chosen_rating"),
        "score_rejected": ("score_rejected", "rejected_score", "rejected_rating"),
    },
    fits=_fits,
    convert=_convert,
    lists=frozenset(("chosen", "rejected", "messages")),
    kept=("score_chosen", "score_rejected"),
)
"""prompt beside chosen, rejected and messages that contain it."""
