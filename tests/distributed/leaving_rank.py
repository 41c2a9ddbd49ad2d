"""One rank of two that leaves while a thread of its process group still has something to do: `leaving_rank.py FOLDER`."""

import os
import sys
import time
from pathlib import Path

import torch
from accelerate import PartialState

from rlhf.stages.ending import end_in_order

state = PartialState(cpu=True)
rank = state.process_index
if rank == 0:
    time.sleep(0.5)  # so that the other's exchange ends in its group's thread, and what follows runs there
work = torch.distributed.all_reduce(torch.ones(4), async_op=True)
done = work.get_future()
if rank == 1:
    done.then(lambda _: time.sleep(1))
done.wait()
Path(sys.argv[1], f"rank-{rank}").write_text(f"{state.num_processes} {state.backend}")
if "RLHF_TEST_LEAVES_ANYHOW" not in os.environ:
    end_in_order(0)
