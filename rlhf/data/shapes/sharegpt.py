"""ShareGPT: conversations whose turns say `from` and `value`."""

from rlhf.data.shapes.layout import Fields, Layout, MisshapenError, need, need_text
from rlhf.data.shapes.turns import Turn, is_turns, pair_of, prompt_of, read_turns
from rlhf.recipe.data import RecordKind

_KEYS = ("from", "value")


def _fits(fields: Fields, kind: RecordKind) -> bool:
    if kind == "preference":
        return is_turns(fields.get("chosen"), _KEYS) and is_turns(fields.get("rejected"), _KEYS)
    return is_turns(fields.get("conversations"), _KEYS)


def _convert(fields: Fields, kind: RecordKind) -> Fields:
    if fields.get("tools"):
        raise MisshapenError("tool_calls", "declares tools", field="tools", value=fields["tools"])
    if kind == "preference":
        return _pair(fields)
    turns = _start(fields) + read_turns(need(fields, "conversations"), "conversations", learnt=kind == "sft")
    return {"messages": turns} if kind == "sft" else {"prompt": prompt_of(turns)}


def _pair(fields: Fields) -> Fields:
    chosen = read_turns(need(fields, "chosen"), "chosen")
    rejected = read_turns(need(fields, "rejected"), "rejected")
    if "conversations" not in fields:
        start = _start(fields)
        return pair_of(start + chosen, start + rejected)
    prompt = _start(fields) + read_turns(fields["conversations"], "conversations")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _start(fields: Fields) -> list[Turn]:
    system = need_text(fields, "system") if "system" in fields else ""
    return [{"role": "system", "content": system}] if system.strip() else []


SHAREGPT = Layout(
    columns={
        "conversations": ("conversations", "conversation", "messages"),
        "chosen": ("chosen",),
        "rejected": ("rejected",),
        "system": ("system", "system_prompt"),
        "tools": ("tools",),
    },
    fits=_fits,
    convert=_convert,
    lists=frozenset(("conversations", "chosen", "rejected")),
)
"""conversations of from and value."""
