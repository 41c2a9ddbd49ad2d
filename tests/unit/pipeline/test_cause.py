"""Which of several dead processes a message names."""

import pytest

from rlhf.pipeline.cause import cause_of_death
from rlhf.stages.inputs import LOG_FILE

ENTRY = """[{number}]:
  time      : 2026-11-27_04:14:{second:02d}
  host      : localhost
  rank      : {rank} (local_rank: {rank})
  exitcode  : {code} (pid: {pid})
  error_file: <N/A>
  traceback : {says}
"""


def account(first: tuple[int, int, int], *others: tuple[int, int, int]) -> str:
    """What torchrun writes when a process has failed, and others with it: rank, exit code, and the second it saw that."""

    def entry(number: int, rank: int, code: int, second: int) -> str:
        says = f"Signal {-code} received by PID {5115 + rank}" if code < 0 else "To enable traceback see: ..."
        return ENTRY.format(number=number, rank=rank, code=code, second=second, pid=5115 + rank, says=says)

    listed = "".join(entry(number, *each) for number, each in enumerate(others, start=1))
    return (
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
        f"{'=' * 60}\nrlhf.stages FAILED\n{'-' * 60}\nFailures:\n{listed or '  <NO_OTHER_FAILURES>'}\n{'-' * 60}\n"
        f"Root Cause (first observed failure):\n{entry(0, *first)}{'=' * 60}\n"
    )


@pytest.mark.parametrize(
    ("first", "others"),
    [
        ((1, -9, 8), []),
        ((1, -9, 8), [(0, -9, 38)]),  # waited for the other until torchrun killed it
        ((0, 1, 8), [(1, -9, 8)]),  # both were seen at once: the lower rank stands as the cause
        ((0, -6, 8), [(1, -9, 8), (2, -15, 8)]),
    ],
)
def test_the_process_that_was_killed_is_named_not_one_that_fell_with_it(tmp_path, first, others):
    (tmp_path / LOG_FILE).write_text("before\n" + account(first, *others))
    said = cause_of_death(tmp_path, 1, 0)
    assert "lost process 1, which was killed by SIGKILL" in said


def test_an_abort_of_its_own_is_named_too(tmp_path):
    (tmp_path / LOG_FILE).write_text(account((0, -6, 8), (1, -15, 8)))
    assert "lost process 0, which was killed by SIGABRT" in cause_of_death(tmp_path, 1, 0)


@pytest.mark.parametrize("accounts", [1, 2])
@pytest.mark.parametrize("other", [(0, -9, 38), (0, -15, 8), (0, 1, 8)])
def test_a_process_ended_for_another_that_failed_is_not_the_cause(tmp_path, other, accounts):
    (tmp_path / LOG_FILE).write_text(accounts * account((1, 1, 8), other) + "error: no more room\n")
    said = cause_of_death(tmp_path, 1, 0)
    assert "lost process" not in said
    assert "error: no more room" in said
