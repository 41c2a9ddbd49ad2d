"""`rlhf rollouts`: which responses it shows, in which order, and what it says where there are none."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.cli import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `rlhf rollouts` in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlhf", "rollouts", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def row_of(prompt_id: int, score: float, log_ratio: float, length: int, **more: Any) -> dict[str, Any]:
    """A record's columns that the command reads; the KL is length x log_ratio."""
    return {
        "prompt": f"prompt [{prompt_id}]",
        "response": f"answer {prompt_id}",
        "response_ids": [5] * length,
        "logprobs": [-1.0] * length,
        "ref_logprobs": [-1.0 - log_ratio] * length,
        "score": score,
        "shaped_score": score / 2,
        "scores": json.dumps({"rm": score, "brief": -float(length)}),
        "finish_reason": "stop" if prompt_id == 1 else "eos",
        "prompt_id": prompt_id,
        "sample_index": 0,
        "metadata": json.dumps({"topic": prompt_id}),
    } | more


ROWS = [row_of(0, 1.0, 0.5, 2), row_of(1, -2.0, 0.25, 8), row_of(2, 3.0, -0.5, 3), row_of(3, 0.0, 2.0, 4)]


def write(folder: Path, step: int, rows: list[dict[str, Any]], num_ranks: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(num_ranks):
        pq.write_table(
            pa.Table.from_pylist(rows[rank::num_ranks]), folder / f"step-{step}-rank-{rank}.parquet"
        )


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A run of steps 1, 2 and 10."""
    run = tmp_path / "workspace" / "runs" / "films"
    for step in (1, 2):
        write(run / "ppo" / "rollouts", step, [row_of(9, 0.0, 0.0, 1)])
    write(run / "ppo" / "rollouts", 10, ROWS)
    return run


def shown(out: str) -> list[int]:
    return [row["prompt_id"] for row in json.loads(out)]


def test_the_newest_step_is_shown_in_the_batchs_order_with_all_numbers(call: Call, recorded: Path) -> None:
    code, out, err = call("films")
    assert (code, err) == (0, "")
    assert "step 10: 4 of 4 responses" in out
    places = [out.index(f"prompt [{number}]") for number in range(4)]
    assert places == sorted(places)
    text = " ".join(out.split())
    assert "prompt 1 sample 0" in text
    assert "score -2 rm -2 brief -8 shaped -1 KL 2 8 tokens ended by stop" in text


def test_a_run_is_found_by_name_by_folder_and_by_the_folder_of_the_shards(
    call: Call, recorded: Path, tmp_path: Path
) -> None:
    (tmp_path / "workspace").rename(tmp_path / "elsewhere")
    folder = tmp_path / "elsewhere" / "runs" / "films"
    for arguments in (
        ["films", "--workspace", "elsewhere"],
        [str(folder)],
        [str(folder / "ppo")],
        [str(folder / "ppo" / "rollouts")],
    ):
        code, out, err = call(*arguments, "--json")
        assert (code, err) == (0, ""), arguments
        assert shown(out) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--worst", "score"], [1, 3, 0, 2]),
        (["--most", "score", "--limit", "2"], [2, 0]),
        (["--most", "kl"], [3, 1, 0, 2]),
        (["--worst", "kl"], [2, 0, 1, 3]),
        (["--longest"], [1, 3, 2, 0]),
        (["--worst", "length"], [0, 2, 3, 1]),
        (["--worst", "brief"], [1, 3, 2, 0]),
        (["--step", "1"], [9]),
    ],
)
def test_responses_are_sorted_by_the_number_that_was_named(
    call: Call, recorded: Path, arguments: list[str], expected: list[int]
) -> None:
    code, out, err = call("films", "--json", *arguments)
    assert (code, err) == (0, "")
    assert shown(out) == expected


def test_json_says_everything_of_a_response(call: Call, recorded: Path) -> None:
    _, out, _ = call("films", "--json", "--most", "kl", "--limit", "1")
    assert json.loads(out) == [
        {
            "step": 10,
            "prompt_id": 3,
            "sample_index": 0,
            "prompt": "prompt [3]",
            "response": "answer 3",
            "score": 0.0,
            "scores": {"rm": 0.0, "brief": -4.0},
            "shaped_score": 0.0,
            "kl": 8.0,
            "length": 4,
            "finish_reason": "eos",
            "metadata": {"topic": 3},
        }
    ]


def test_broken_numbers_come_first_and_are_text_in_json(call: Call, tmp_path: Path) -> None:
    rows = [row_of(0, 1.0, 0.0, 1), row_of(1, math.nan, 0.0, 1), row_of(2, -math.inf, 0.0, 1)]
    rows = [{name: value for name, value in row.items() if name != "shaped_score"} for row in rows]
    folder = tmp_path / "offending"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "step-4.parquet")
    for end in ("--worst", "--most"):
        code, out, _ = call("offending", end, "score", "--json")
        assert code == 0
        assert shown(out)[0] == 1
        assert json.loads(out)[0]["score"] == "nan"
        assert json.loads(out)[0]["scores"]["rm"] == "nan"
    assert "score +nan" in call("offending", "--worst", "score", "--limit", "1")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["none"], 2, "none: neither a folder nor a run in workspace/runs"),
        (["workspace"], 2, "workspace: no recorded rollouts in it"),
        (["films", "--step", "3"], 2, "no rollouts of step 3 It holds steps 1, 2, 10."),
        (["films", "--worst", "beauty"], 2, "Name one of score, shaped_score, kl, length, brief, rm."),
        (["films", "--worst", "score", "--longest"], 2, "exclude each other"),
        (["films", "--limit", "0"], 2, "limit"),
        (["broken"], 1, "cannot be read as Parquet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_ends_in_one_message(
    call: Call, recorded: Path, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "step-1-rank-0.parquet").write_bytes(b"not Parquet")
    got, out, err = call(*arguments)
    assert got == code, out + err
    assert told in " ".join((out + err).split())
    assert "Traceback" not in out + err


def test_it_starts_without_torch(recorded: Path) -> None:
    script = (
        f"import sys\nsys.argv = ['rlhf', 'rollouts', {str(recorded)!r}]\nfrom rlhf.cli import main\n"
        "try:\n main()\nfinally:\n"
        " print('HEAVY', [m for m in ('torch', 'transformers', 'datasets', 'accelerate') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
