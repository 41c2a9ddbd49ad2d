"""Alpaca: an instruction, an input that may be empty, an output; Dolly's context and response are the same."""

from rlhf.data.shapes.layout import Fields, Layout, MisshapenError, as_list, need, need_text
from rlhf.data.shapes.turns import Turn
from rlhf.recipe.data import RecordKind


def join_input(fields: Fields) -> str:
    """The instruction, and after an empty line the input where it is more than white space.

    Raises:
        MisshapenError: if either is not text, or there is no instruction.
    """
    instruction = need_text(fields, "instruction")
    extra = need_text(fields, "input") if "input" in fields else ""
    return f"{instruction}\n\n{extra}" if extra.strip() else instruction


def _fits(fields: Fields, kind: RecordKind) -> bool:
    if not isinstance(fields.get("instruction"), str):
        return False
    if kind == "preference":
        return "chosen" in fields and "rejected" in fields
    return kind == "prompt" or isinstance(fields.get("output"), str)


def _convert(fields: Fields, kind: RecordKind) -> Fields:
    prompt = join_input(fields)
    answers = {
        "sft": {"completion": "output"},
        "preference": {"chosen": "chosen", "rejected": "rejected"},
    }.get(kind, {})
    record: Fields = {name: need(fields, field) for name, field in answers.items()}
    if "system" not in fields and "history" not in fields:
        return {"prompt": prompt, **record}
    turns = {name: [{"role": "assistant", "content": answer}] for name, answer in record.items()}
    return {"prompt": [*_context(fields), {"role": "user", "content": prompt}], **turns}


def _context(fields: Fields) -> list[Turn]:
    system = need_text(fields, "system") if "system" in fields else ""
    turns: list[Turn] = [{"role": "system", "content": system}] if system.strip() else []
    history = as_list(fields.get("history", []))
    if history is None:
        raise MisshapenError(
            "wrong_type", "should be a list of [question, answer]", field="history", value=fields["history"]
        )
    for index, item in enumerate(history):
        exchange = as_list(item) or []
        if len(exchange) != 2:
            raise MisshapenError(
                "wrong_type", "should be [question, answer]", field=f"history[{index}]", value=item
            )
        turns += [{"role": "user", "content": exchange[0]}, {"role": "assistant", "content": exchange[1]}]
    return turns


ALPACA = Layout(
    columns={
        "instruction": ("instruction",),
        "input": ("input", "context"),
        "output": ("output", "response"),
        "chosen": ("chosen",),
        "rejected": ("rejected",),
        "system": ("system",),
        "history": ("history",),
        "text": ("text",),  # the original data repeat all of it here, formatted
    },
    fits=_fits,
    convert=_convert,
    lists=frozenset(("history",)),
)
"""instruction, input, output."""
