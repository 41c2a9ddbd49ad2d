"""How a stage's processes leave: together, and without the interpreter's teardown.

A thread of the process group may still hold the tensors of the last exchange when its process is done. Letting go of
them takes the interpreter's lock, which there is none of any more once the interpreter is being torn down: Python 3.11
ends the thread then, and the C++ above it the whole process, with "terminate called without an active exception" and
exit code -6. The launcher would report a stage that has published as one that died.
"""

import atexit
import os
import sys

import torch
from accelerate import PartialState

from rlhf.stages.signals import siblings_may_leave


def end_in_order(code: int) -> None:
    """End this process as one of those that a launcher started; return where none did.

    All wait for each other, so that rank 0, which publishes, is not left by the others; then the process group goes.

    Args:
        code: the exit code.
    """
    if "RANK" not in os.environ:
        return
    if torch.distributed.is_initialized():
        PartialState().wait_for_everyone()
        siblings_may_leave()
    atexit._run_exitfuncs()  # trackers send what they still hold; vLLM lets go of its parts of the process group
    if torch.distributed.is_initialized():
        PartialState().destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
