"""The command line: exit codes, one message and no traceback, and a light start."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import TinyRecipe, write_rows

from rlhf.cli import main
from rlhf.registry import ManifestDraft, Parent, Registry

Call = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "transformers", "datasets", "trl", "accelerate", "peft", "pyarrow", "numpy")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `rlhf` in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlhf", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Three versions of a model, and a reward model made from the second."""
    registry = Registry(tmp_path / "workspace" / "registry")
    artefacts = [publish(registry, "a-sft") for _ in range(3)]
    parent = Parent(role="policy", reference="a-sft@2", digest=artefacts[1].digest)
    publish(registry, "a-reward", [parent])
    return tmp_path / "workspace"


def publish(registry: Registry, name: str, parents: list[Parent] | None = None) -> Any:
    staged = registry.staging(name)
    (staged / "model.safetensors").write_bytes(b"abcd")
    draft = ManifestDraft(
        name=name,
        stage="sft",
        kind="causal_lm",
        parents=parents or [],
        data={"sft.train": "e" * 64},
        recipe_digest="r",
        inputs_digest="i",
        tokenizer_digest="t",
        code_version="0",
        metrics={"eval_loss": 1.25},
    )
    return registry.publish(staged, draft)


def flip_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["validate", "rows.jsonl", "--as", "sft"], ["validate", "recipe.yaml"]]
)
def test_help_and_validate_start_light_and_fast(tiny_recipe: TinyRecipe, arguments: list[str]) -> None:
    write_rows(tiny_recipe.folder / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    script = (
        f"import sys\nsys.argv = ['rlhf', *{arguments!r}]\nfrom rlhf.cli import main\n"
        "try:\n main()\n"
        f"finally:\n print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    seconds: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tiny_recipe.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "HEAVY []" in done.stdout
    # Half a second on an idle core; the fastest of three, with room for a busy machine.
    assert min(seconds) < 3


def test_help_names_every_command(call: Call) -> None:
    code, out, _ = call("--help")
    assert code == 0
    for command in ("run", "validate", "registry", "schema", "rollouts", "export", "env"):
        assert f" {command} " in out
    code, out, _ = call("registry", "--help")
    assert all(f" {command} " in out for command in ("list", "show", "lineage", "verify", "alias", "gc"))


FAULTY = [
    '{"prompt": "a", "completion": "b"}',
    '{"prompt": "", "completion": "b"}',
    '{"prompt": "a", "completion": "b"',
    '{"prompt": "a", "completion": "b", "note": 1}',
    '{"prompt": "a"}',
    '{"messages": [{"role": "assistant", "content": "x"}]}',
    "[1]",
    '{"prompt": "a", "completion": 5}',
]


def test_validate_names_every_planted_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(FAULTY) + "\n")
    code, out, err = call("validate", "rows.jsonl", "--as", "sft")
    assert (code, err) == (1, "")
    assert {n for n in range(1, 9) if f"rows.jsonl:{n}:" in out} == {2, 3, 4, 5, 6, 7, 8}
    code, out, _ = call("validate", "rows.jsonl", "--as", "sft", "--json", "--report", "report.json")
    assert code == 1
    told = json.loads(out)
    assert told == json.loads((tmp_path / "report.json").read_text())
    assert told["num_rows"] == 8
    assert {fault["line"] for fault in told["reports"][0]["faults"]} == {2, 3, 4, 5, 6, 7, 8}
    (tmp_path / "rows.jsonl").write_text(FAULTY[0] + "\n")
    assert call("validate", "rows.jsonl", "--as", "sft")[0] == 0


def test_validate_lets_a_share_of_faulty_rows_pass(call: Call, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": ""}\n')
    for share, code in (("0", 1), ("0.3", 1), ("0.34", 0)):
        assert call("validate", "rows.jsonl", "--as", "prompt", "--max-faulty-share", share)[0] == code


def test_validate_reads_every_split_of_a_recipe(call: Call, tiny_recipe: TinyRecipe) -> None:
    code, out, err = call("validate", "recipe.yaml")
    assert code == 0
    assert "preference.train.jsonl: 24 preference rows, no faults" in out
    # the tiny held-out rows are training rows
    assert "preference.eval.jsonl: 4 preference rows, 12 warnings (stage_leak 8, eval_leak 4)" in out
    assert "Checks with the tokenizer were left out: the SFT stage trains the tokenizer." in err
    write_rows(tiny_recipe.folder / "bad.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    code, out, _ = call("validate", "recipe.yaml", "--set", "data.preference.eval=bad.jsonl")
    assert code == 1
    assert "bad.jsonl:1: equal_pair" in out or "bad.jsonl:1" in out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["validate", "rows.jsonl"], 2, "Add --as"),
        (["validate", "none.jsonl", "--as", "sft"], 1, "none.jsonl"),
        (["validate", "rows.jsonl", "--as", "nonsense"], 2, "nonsense"),
        (["validate", "rows.jsonl", "--as", "sft", "--report", "rows.jsonl/x"], 2, "cannot write"),
        (["run", "none.yaml"], 2, "recipe none.yaml: No such file or directory"),
        (["run", "recipe.yaml", "--stage", "rm"], 2, "rm"),
        (["run", "recipe.yaml", "--stage", "sft", "--from", "sft"], 2, "exclude each other"),
        (["run", "recipe.yaml", "--set", "ppo=null", "--stage", "ppo"], 2, "no such section"),
        (["run", "recipe.yaml", "--set", "sft.lr=1"], 2, "sft.lr: unknown key"),
        (
            ["run", "recipe.yaml", "--set", "workspace=rows.jsonl/ws"],
            2,
            "rows.jsonl/ws/runs/tiny: Not a directory",
        ),
        (
            ["run", "recipe.yaml", "--set", "model={path: ./none}"],
            1,
            "model ./none: the folder does not exist",
        ),
        (["run", "recipe.yaml", "--set", "model={path: 'registry:none@3'}"], 1, "none@3"),
        (["run", "recipe.yaml", "--set", "data.sft.train=none.jsonl"], 2, "data.sft.train: none.jsonl"),
        (["schema", "nonsense"], 2, "nonsense"),
        (["registry", "list", "--workspace", "nowhere"], 2, "nowhere/registry: there is no registry"),
        (["registry", "show", "none", "--workspace", "workspace"], 1, "none"),
        (["registry", "verify", "a-sft@9", "--workspace", "workspace"], 1, "a-sft@9"),
        (["registry", "alias", "a-sft@9", "best", "--workspace", "workspace"], 1, "a-sft@9"),
        (["registry", "alias", "a-sft@1", "7", "--workspace", "workspace"], 1, "reads as a version"),
        (["nonsense"], 2, "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_ends_in_one_message(
    call: Call, tiny_recipe: TinyRecipe, workspace: Path, arguments: list[str], code: int, told: str
) -> None:
    write_rows(tiny_recipe.folder / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    got, out, err = call(*arguments)
    assert got == code, out + err
    assert told in " ".join((out + err).split())
    assert "Traceback" not in out + err


def test_a_secret_in_a_call_is_not_repeated(call: Call, tiny_recipe: TinyRecipe) -> None:
    token = "hf_" + "abcDEF123" * 4
    code, out, err = call("run", "recipe.yaml", "--set", f"model.path={token}")
    assert code == 2
    assert token not in out + err
    assert "[redacted]" in err


@pytest.mark.parametrize("kind", ["sft", "preference", "prompt", "rollout", "recipe"])
def test_schema_prints_a_closed_json_schema(call: Call, kind: str) -> None:
    code, out, _ = call("schema", kind)
    schema = json.loads(out)
    assert code == 0
    assert schema["additionalProperties"] is False
    assert ("ppo" if kind == "recipe" else "metadata") in schema["properties"]


def test_env_names_versions(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.environment._ASK_TORCH", "print('none'); print('none')")
    code, out, _ = call("env")
    assert code == 0
    assert "torch" in out
    assert f"python         {sys.version.split()[0]}" in out


def test_registry_list_and_show(call: Call, workspace: Path) -> None:
    code, out, _ = call("registry", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "a-reward@1",
        "a-sft@1",
        "a-sft@2",
        "a-sft@3",
    ]
    _, out, _ = call("registry", "list", "a-sft", "--json")
    assert [entry["version"] for entry in json.loads(out)] == [1, 2, 3]
    code, out, _ = call("registry", "show", "a-sft@latest")
    shown = json.loads(out)
    assert (code, shown["version"], shown["metrics"]) == (0, 3, {"eval_loss": 1.25})
    assert shown["path"] == str(workspace / "registry" / "a-sft" / "3")


def test_registry_lineage_names_parents_and_data(call: Call, workspace: Path) -> None:
    code, out, _ = call("registry", "lineage", "a-reward")
    assert code == 0
    assert out.splitlines() == [
        "a-reward@1",
        "    data sft.train eeeeeeeeeeee",
        "  a-sft@2 (policy)",
        "      data sft.train eeeeeeeeeeee",
    ]
    flip_one_byte(workspace / "registry" / "a-sft" / "2" / "manifest.json")
    code, out, _ = call("registry", "lineage", "a-reward")
    assert code == 1
    assert "problem" in out


def test_registry_verify_finds_one_flipped_byte(call: Call, workspace: Path) -> None:
    code, out, _ = call("registry", "verify")
    assert code == 0
    assert out.count("ok ") == 4
    flip_one_byte(workspace / "registry" / "a-sft" / "1" / "model.safetensors")
    code, out, _ = call("registry", "verify")
    assert code == 1
    assert "DAMAGED a-sft@1" in out
    assert "model.safetensors" in out
    assert "ok      a-sft@3" in out
    assert call("registry", "verify", "a-sft@3")[0] == 0
    flip_one_byte(workspace / "registry" / "a-sft" / "3" / "manifest.json")
    code, out, _ = call("registry", "verify")
    assert code == 1
    assert out.count("DAMAGED") == 2


def test_registry_alias_survives_gc_and_gc_keeps_what_is_needed(call: Call, workspace: Path) -> None:
    code, out, _ = call("registry", "alias", "a-sft@1", "best")
    assert (code, out) == (0, "a-sft@best is now version 1\n")
    assert json.loads(call("registry", "show", "a-sft@best")[1])["version"] == 1
    assert "best" in call("registry", "list")[1]
    assert call("registry", "gc", "--keep", "1")[1] == "nothing to remove\n", (
        "an alias, a parent and the newest stay"
    )
    assert call("registry", "alias", "a-sft", "best", "--delete")[0] == 0
    assert call("registry", "alias", "a-sft", "best", "--delete")[0] == 1
    _, out, _ = call("registry", "gc", "--keep", "1", "--dry-run")
    assert out.startswith("would remove a-sft@1 (")
    assert call("registry", "show", "a-sft@1")[0] == 0
    run = workspace / "runs" / "one"
    run.mkdir(parents=True)
    (run / "pins.json").write_text('{"registry:a-sft@best": "a-sft@1"}')
    assert call("registry", "gc", "--keep", "1")[1] == "nothing to remove\n", "a run pinned it"
    (run / "pins.json").unlink()
    assert call("registry", "gc", "--keep", "1")[1].startswith("removed a-sft@1 (")
    assert call("registry", "show", "a-sft@1")[0] == 1
    assert call("registry", "gc", "--keep", "0")[0] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--clean", "x.jsonl"],
        ["--quarantine", "./x.jsonl"],
        ["--report", "x.jsonl"],
        ["--clean", "y.jsonl", "--quarantine", "y.jsonl"],
    ],
)
def test_validate_never_overwrites_what_it_reads_or_writes(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "x.jsonl", [{"prompt": "a"}])
    before = (tmp_path / "x.jsonl").read_bytes()
    code, _, err = call("validate", "x.jsonl", "--as", "prompt", *arguments)
    assert code == 2
    assert "would overwrite" in err
    assert (tmp_path / "x.jsonl").read_bytes() == before
    assert not (tmp_path / "y.jsonl").exists()
