"""Every shape of data trains: from a small file as people have it to an SFT step and a reward-model step."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from stage_runs import run_stage_here, tiny
from tiny import ANIMALS

from rlhf.metrics import read_metrics
from rlhf.recipe import Recipe
from rlhf.registry import Artefact
from rlhf.stages.inputs import run_folder

Rows = list[dict[str, Any]]


def ask(animal: str) -> str:
    return f"The {animal}?"


def good(animal: str) -> str:
    return f"The {animal} is kind."


def bad(animal: str) -> str:
    return f"The {animal} is vile."


def turns(*texts: str, keys: tuple[str, str] = ("role", "content"), names: tuple[str, str]) -> Rows:
    return [{keys[0]: names[index % 2], keys[1]: text} for index, text in enumerate(texts)]


def openai(*texts: str) -> Rows:
    return turns(*texts, names=("user", "assistant"))


def sharegpt(*texts: str) -> Rows:
    return turns(*texts, keys=("from", "value"), names=("human", "gpt"))


def transcript(animal: str, answer: str) -> str:
    return f"\n\nHuman: Hello?\n\nAssistant: Yes.\n\nHuman: {ask(animal)}\n\nAssistant: {answer}"


MAKERS: Mapping[tuple[str, str], Callable[[str], Rows]] = {
    ("records", "sft"): lambda a: [{"messages": openai("Hello?", "Yes.", ask(a), good(a))}],
    ("records", "preference"): lambda a: [
        {"prompt": openai(ask(a)), "chosen": openai("", good(a))[1:], "rejected": openai("", bad(a))[1:]}
    ],
    ("alpaca", "sft"): lambda a: [{"instruction": "Say.", "input": ask(a), "output": good(a), "id": a}],
    ("alpaca", "preference"): lambda a: [{"instruction": ask(a), "chosen": good(a), "rejected": bad(a)}],
    ("sharegpt", "sft"): lambda a: [{"id": a, "conversations": sharegpt(ask(a), good(a), "Bye.", "Bye.")}],
    ("sharegpt", "preference"): lambda a: [
        {
            "conversations": sharegpt(ask(a)),
            "chosen": {"from": "gpt", "value": good(a)},
            "rejected": {"from": "gpt", "value": bad(a)},
        }
    ],
    ("openai", "sft"): lambda a: [
        {"messages": [{"role": "developer", "content": "Be brief."}, *openai(ask(a), good(a))]}
    ],
    ("openai", "preference"): lambda a: [
        {
            "input": {"messages": openai(ask(a)), "tools": []},
            "preferred_output": openai("", good(a))[1:],
            "non_preferred_output": openai("", bad(a))[1:],
        }
    ],
    ("transcript", "sft"): lambda a: [{"text": transcript(a, good(a))}],
    ("transcript", "preference"): lambda a: [
        {"chosen": transcript(a, good(a)), "rejected": transcript(a, bad(a))}
    ],
    ("scored", "sft"): lambda a: [{"prompt": ask(a), "response": good(a), "label": True}],
    ("scored", "preference"): lambda a: [
        {"prompt": ask(a), "response": good(a), "score": 4.5},
        {"prompt": ask(a), "response": bad(a), "score": 1},
    ],
    ("rated", "sft"): lambda a: [{"prompt": ask(a), "responses": [bad(a), good(a)], "scores": [1, 5]}],
    ("rated", "preference"): lambda a: [
        {
            "instruction": ask(a),
            "completions": [
                {"response": bad(a), "overall_score": 2.0},
                {"response": good(a), "overall_score": 8.5},
            ],
        }
    ],
    ("binarized", "sft"): lambda a: [
        {
            "prompt": ask(a),
            "prompt_id": a,
            "messages": openai(ask(a), good(a)),
            "chosen": openai(ask(a), good(a)),
        }
    ],
    ("binarized", "preference"): lambda a: [
        {
            "prompt": ask(a),
            "chosen": openai(ask(a), good(a)),
            "rejected": openai(ask(a), bad(a)),
            "score_chosen": 8.0,
            "score_rejected": 6.5,
        }
    ],
    ("rollouts", "sft"): lambda a: [{"input": ask(a), "action": good(a), "reward": 0.7, "state": ask(a)}],
    ("rollouts", "preference"): lambda a: [
        {"input": ask(a), "action": good(a), "reward": 0.75, "state": ask(a)},
        {"input": ask(a), "action": bad(a), "reward": -0.5, "state": ask(a)},
    ],
}
STEPS = {"max_steps": 1, "eval_every_steps": 1, "save_every_steps": 1, "num_reference_samples": 4}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Artefact]:
    """A tiny SFT model that reward models start from, and its recipe."""
    recipe = tiny(tmp_path_factory.mktemp("start"))
    artefact = run_stage_here(recipe, "sft")
    assert artefact is not None
    return recipe, artefact


def with_data(recipe: Recipe, group: str, source: dict[str, Any]) -> Recipe:
    """The recipe trained for one step on a file, held-out split included."""
    raw = recipe.model_dump(mode="json", exclude_none=True)
    raw["data"][group] = {"train": source, "eval": source}
    for stage in ("sft", "reward"):
        raw[stage] |= {key: value for key, value in STEPS.items() if stage == "reward" or key in raw[stage]}
    return Recipe.model_validate(raw)


@pytest.mark.parametrize(("shape", "kind"), MAKERS)
def test_a_file_of_the_shape_is_found_out_and_trains(
    start: tuple[Recipe, Artefact],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    shape: str,
    kind: str,
) -> None:
    rows = [row for animal in ANIMALS for row in MAKERS[shape, kind](animal)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe, artefact = start
    stage = "sft" if kind == "sft" else "reward"
    recipe = with_data(recipe, kind, {"path": str(path)})
    recipe = recipe.model_copy(update={"name": f"shape-{shape}-{kind}"})
    made = run_stage_here(recipe, stage, {} if stage == "sft" else {"sft": artefact})
    assert made is not None
    logged = read_metrics(run_folder(recipe) / stage / "metrics.jsonl")
    assert [row["step"] for row in logged if "eval_loss" in row][:1] == [1]
    log = capfd.readouterr().out
    assert "8 rows" in log
