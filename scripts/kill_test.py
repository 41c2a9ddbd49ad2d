"""Kill a run with SIGKILL at random moments, resume it each time, and demand what an uninterrupted run makes.

`python scripts/kill_test.py` ends with `30 of 30` and exit code 0 when every kill was survived: the run went on from
its newest checkpoint, and metrics, SHA-256 of the weights and sampled tokens are those of a run that was left alone.
Else it says what differs and exits with 1. docs/resume.md explains it.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from kill_attempt import KillTestError
from kill_recipe import write_recipe
from kill_trial import Trial


def main() -> int:
    """Run it all; the exit code."""
    arguments = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no run is left behind
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="kill-test-")).resolve()
    started = time.monotonic()
    print(f"folder: {folder}", flush=True)
    recipe = arguments.recipe or write_recipe(folder)
    try:
        trial = Trial(folder, recipe, arguments.set, arguments.seed)
        problems, num_survived = trial.run(arguments.kills)
    except KillTestError as error:
        problems, num_survived = [str(error)], 0
    for problem in problems:
        print(f"problem: {problem}")
    if not problems and arguments.folder is None:
        shutil.rmtree(folder)
    print(f"{time.monotonic() - started:.0f} s")
    print(f"{'failed: ' if problems else ''}{num_survived} of {arguments.kills}")
    return 1 if problems else 0


def parsed() -> argparse.Namespace:
    """The call's arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--recipe", type=Path, help="the recipe to run; its own small one where left out")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe"
    )
    parser.add_argument(
        "--folder", help="keep the runs here; an uninterrupted run that it holds is used again"
    )
    arguments = parser.parse_args()
    if arguments.kills < 1:
        parser.error("--kills must be 1 or more")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
