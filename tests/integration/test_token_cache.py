"""The cache of tokens under a kill and under two builders at once: processes of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import environment, write_rows

from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe import DataSource
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.recipe import ReadSplit
from rlhf.recipe.training import SFTSection
from rlhf.stages.tokens.examples import demonstrations
from rlhf.stages.tokens.splits import Split

BUILDER = """
import sys, time
from pathlib import Path
from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe import DataSource
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.recipe import ReadSplit
from rlhf.recipe.training import SFTSection
from rlhf.stages.tokens import examples, shared
from rlhf.stages.tokens.splits import Split

folder, stop_after = Path(sys.argv[1]), int(sys.argv[2])
encode_rows = shared.encode_rows

def encoded(rows, encoder):
    for number, item in enumerate(encode_rows(rows, encoder)):
        if number == stop_after:
            print("half", flush=True)
            time.sleep(60)
        if number == 0:
            print("building", flush=True)
            time.sleep(0.5)
        yield item

shared.encode_rows = encoded
split = Split(ReadSplit("sft.train", "sft", DataSource(path=str(folder / "rows.jsonl"))), True, ChecksSection())
section = SFTSection(learning_rate=0.1, global_batch_size=1, per_device_batch_size=1)
made = examples.demonstrations(train_tokenizer(["it is"], 300), split, section, cache=folder / "cache")
print(len(made.rows), sum(sum(row.input_ids) for row in made.rows), flush=True)
"""
NUM_ROWS = 2500


@pytest.fixture
def folder(tmp_path):
    rows = [{"prompt": f"is it {n}?", "completion": " it is." * (n % 5 + 1)} for n in range(NUM_ROWS)]
    write_rows(tmp_path / "rows.jsonl", rows)
    return tmp_path


def start(folder: Path, stop_after: int = -1) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(folder), str(stop_after)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def finished(process: "subprocess.Popen[str]") -> list[str]:
    """Its lines."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.splitlines()


def the_rows(folder: Path) -> Path:
    (path,) = (folder / "cache").glob("*/rows.arrow")
    return path


def built_here(folder: Path) -> bytes:
    """What an undisturbed builder writes."""
    split = Split(
        ReadSplit("sft.train", "sft", DataSource(path=str(folder / "rows.jsonl"))), True, ChecksSection()
    )
    section = SFTSection(learning_rate=0.1, global_batch_size=1, per_device_batch_size=1)
    demonstrations(train_tokenizer(["it is"], 300), split, section, cache=folder / "undisturbed")
    (path,) = (folder / "undisturbed").glob("*/rows.arrow")
    return path.read_bytes()


def test_a_killed_builders_data_are_built_again_the_same(folder):
    killed = start(folder, stop_after=2000)
    assert killed.stdout is not None
    lines = [killed.stdout.readline() for _ in range(2)]
    assert lines == ["building\n", "half\n"]
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    writing = [path for path in (folder / "cache").iterdir() if path.name.startswith(".writing-")]
    assert len(writing) == 1
    assert not list((folder / "cache").glob("*/facts.json"))
    again = finished(start(folder))
    assert again[-1].split()[0] == str(NUM_ROWS)
    assert not writing[0].exists()
    assert the_rows(folder).read_bytes() == built_here(folder)


def test_of_two_builders_one_waits_and_finds_it_done(folder):
    both = [start(folder), start(folder)]
    outputs = [finished(process) for process in both]
    assert sum("building" in lines for lines in outputs) == 1
    assert outputs[0][-1] == outputs[1][-1]
    assert len(list((folder / "cache").iterdir())) == 2, "the tokens and their lock"
