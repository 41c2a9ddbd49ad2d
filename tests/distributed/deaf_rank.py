"""One rank of two: rank 1 is killed, rank 0 is in a wait that no signal ends: `deaf_rank.py FOLDER`."""

import os
import signal
import sys
import time
from pathlib import Path

from rlhf.stages.signals import die_with_siblings, listen_for_stop

listen_for_stop()
die_with_siblings(grace_seconds=2.0)
if os.environ["RANK"] == "1":
    time.sleep(4)  # both have been seen
    os.kill(os.getpid(), signal.SIGKILL)
Path(sys.argv[1], "deaf").write_text(f"{os.environ['WORLD_SIZE']} processes")
time.sleep(600)
