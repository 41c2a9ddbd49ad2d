"""Which of several dead processes a message names."""

import pytest

from rlhf.pipeline.cause import cause_of_death
from rlhf.stages.inputs import LOG_FILE

ENTRY = """[{number}]:
  time      : 2026-11-27_04:14:38
  host      : localhost
  rank      : {rank} (local_rank: {rank})
  exitcode  : {code} (pid: {pid})
  error_file: <N/A>
  traceback : {says}
"""


def account(first: tuple[int, int], *others: tuple[int, int]) -> str:
    """What torchrun 2.11 wrote when a process had failed, and others had after it: (rank, exit code) each."""

    def entry(number: int, rank: int, code: int) -> str:
        says = f"Signal {-code} received by PID {5115 + rank}" if code < 0 else "To enable traceback see: ..."
        return ENTRY.format(number=number, rank=rank, code=code, pid=5115 + rank, says=says)

    listed = "".join(entry(number, *each) for number, each in enumerate(others, start=1))
    return (
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
        f"{'=' * 60}\nrlhf.stages FAILED\n{'-' * 60}\nFailures:\n{listed or '  <NO_OTHER_FAILURES>'}\n{'-' * 60}\n"
        f"Root Cause (first observed failure):\n{entry(0, *first)}{'=' * 60}\n"
    )


@pytest.mark.parametrize("others", [[], [(0, -9)], [(0, -6), (2, -9)]])
def test_the_process_that_was_killed_first_is_named_not_one_that_torchrun_killed_for_it(tmp_path, others):
    (tmp_path / LOG_FILE).write_text("before\n" + account((1, -9), *others))
    said = cause_of_death(tmp_path, 1, 0)
    assert "lost process 1, which was killed by SIGKILL" in said


@pytest.mark.parametrize("accounts", [1, 2])
def test_a_process_killed_for_another_that_failed_is_not_the_cause(tmp_path, accounts):
    (tmp_path / LOG_FILE).write_text(accounts * account((1, 1), (0, -9)) + "error: no more room\n")
    said = cause_of_death(tmp_path, 1, 0)
    assert "lost process" not in said
    assert "error: no more room" in said
