"""The sums of a checkpoint: exact for the same processes, shared out for others."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator

from rlhf.stages.trainer_sums import Sums, load_sums, save_sums

SUMS = Sums(
    loss=torch.tensor(0.1),
    logged_loss=0.7,
    logged_step=20,
    means={"entropy": [1 / 3, float("nan")], "num_tokens": [412]},
    num_tokens=412,
    is_training=True,
)


def ranks(count: int, rank: int, losses: list[float] | None = None) -> Accelerator:
    """Accelerate's handle as one of several processes sees it; `losses` are what all of them hold."""
    return cast(
        Accelerator,
        SimpleNamespace(
            num_processes=count,
            process_index=rank,
            is_main_process=rank == 0,
            device="cpu",
            gather=lambda loss: loss if losses is None else torch.tensor(losses),
        ),
    )


def loaded(accelerator: Accelerator, folder: Path) -> tuple[Sums, dict[str, Any]]:
    found = load_sums(accelerator, folder)
    assert found is not None
    return found


def test_what_was_saved_is_what_is_loaded_to_the_last_bit(tmp_path: Path) -> None:
    save_sums(ranks(1, 0), SUMS, tmp_path, num_lines=9)
    sums, further = loaded(ranks(1, 0), tmp_path)
    assert further == {"num_lines": 9}
    assert sums.loss.shape == ()
    assert sums.loss.dtype == torch.float32
    assert torch.equal(sums.loss, torch.tensor(0.1))
    assert str({**vars(sums), "loss": 0}) == str({**vars(SUMS), "loss": 0})


@pytest.mark.parametrize(("count", "rank", "expected"), [(2, 0, 1.0), (2, 1, 4.0), (1, 0, 2.5), (4, 3, 2.5)])
def test_each_rank_gets_its_own_loss_back_and_other_numbers_of_processes_get_the_mean(
    tmp_path: Path, count: int, rank: int, expected: float
) -> None:
    save_sums(ranks(2, 0, [1.0, 4.0]), SUMS, tmp_path)
    assert loaded(ranks(count, rank), tmp_path)[0].loss.item() == expected


def test_the_first_rank_alone_writes(tmp_path: Path) -> None:
    save_sums(ranks(2, 1, [1.0, 4.0]), SUMS, tmp_path)
    assert list(tmp_path.iterdir()) == []
    save_sums(ranks(2, 0, [1.0, 4.0]), SUMS, tmp_path)
    assert json.loads((tmp_path / "sums.json").read_text())["loss"] == [1.0, 4.0]


def test_a_checkpoint_of_an_older_version_has_none(tmp_path: Path) -> None:
    assert load_sums(ranks(1, 0), tmp_path) is None
