"""Rated lists as in UltraFeedback: one row a prompt, with a list of answers and their scores or ranks."""

from rlhf.data.shapes.layout import Answer, Fields, Layout, MisshapenError, as_list, as_object, need
from rlhf.data.shapes.scored import prompt_of_row
from rlhf.data.shapes.scores import mean_rating, read_score
from rlhf.recipe.data import RecordKind

_TEXT_KEYS = ("response", "text", "content", "answer", "completion", "output")
_SCORE_KEYS = ("score", "overall_score", "fine-grained_score", "rating", "reward")


def _fits(fields: Fields, kind: RecordKind) -> bool:
    responses = as_list(fields.get("responses"))
    if not responses or fields.keys().isdisjoint(("prompt", "instruction", "input")):
        return False
    first = responses[0]
    if isinstance(first, dict):
        return any(key in first for key in _TEXT_KEYS)
    return isinstance(first, str) and ("scores" in fields or "ranks" in fields)


def _answers(fields: Fields, kind: RecordKind) -> tuple[object, list[Answer]]:
    prompt = prompt_of_row(fields)
    if kind == "prompt":
        return prompt, []
    responses = _list(need(fields, "responses"), "responses")
    if not responses:
        raise MisshapenError("blank", "has no answers", field="responses", value=responses)
    listed = _listed_scores(fields, len(responses))
    answers: list[Answer] = []
    for index, response in enumerate(responses):
        path = f"responses[{index}]"
        text = _text(response, path)
        answers.append(Answer(text, listed[index] if listed is not None else _own_score(response, path)))
    return prompt, answers


def _list(value: object, field: str) -> list[object]:
    values = as_list(value)
    if values is None:
        raise MisshapenError("wrong_type", "should be a list", field=field, value=value)
    return values


def _listed_scores(fields: Fields, num_answers: int) -> list[float] | None:
    name = "scores" if "scores" in fields else "ranks"
    if name not in fields:
        return None
    values = _list(fields[name], name)
    if len(values) != num_answers:
        message = f"has {len(values)} entries for {num_answers} answers"
        raise MisshapenError("length_mismatch", message, field=name, value=values)
    scores = [read_score(value, f"{name}[{index}]") for index, value in enumerate(values)]
    # of ranks, 1 is the best
    return scores if name == "scores" else [-score for score in scores]


def _text(response: object, path: str) -> object:
    given = as_object(response)
    if given is None:
        return response
    for key in _TEXT_KEYS:
        if given.get(key) is not None:
            return given[key]
    raise MisshapenError(
        "missing_field", f"is missing; the answer has {', '.join(given)}", field=f"{path}.response"
    )


def _own_score(response: object, path: str) -> float:
    given = as_object(response) or {}
    for key in _SCORE_KEYS:
        if given.get(key) is not None:
            return read_score(given[key], f"{path}.{key}")
    return read_score(mean_rating(given.get("annotations")), f"{path}.score")


RATED = Layout(
    columns={
        "prompt": ("prompt", "question", "query"),
        "instruction": ("instruction",),
        "input": ("input",),
        "responses": ("responses", "completions", "answers", "outputs", "generations", "candidates"),
        "scores": ("scores", "ratings", "rewards", "labels"),
        "ranks": ("ranks", "rank", "ranking", "rankings"),
    },
    fits=_fits,
    answers=_answers,
    lists=frozenset(("responses", "scores", "ranks")),
)
"""prompt, responses, scores."""
