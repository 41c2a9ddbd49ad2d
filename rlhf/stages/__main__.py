"""A stage's process: `python -m rlhf.stages RUN_FOLDER STAGE`, started by the pipeline, alone or under a launcher.

Exits with 0 when the stage has published, 75 when a signal stopped it after saving, 1 on an error that a user can
mend (one message, no traceback); anything else is a defect and shows its traceback.
"""

import os
import sys
from pathlib import Path
from typing import cast

from rlhf.errors import RLHFError
from rlhf.recipe import Stage
from rlhf.stages.inputs import STOPPED_EXIT_CODE, STOPPED_FILE
from rlhf.stages.signals import die_with_parent, listen_for_stop


def main() -> int:
    """Run one stage."""
    die_with_parent()
    listen_for_stop()
    run_folder, stage = Path(sys.argv[1]), cast(Stage, sys.argv[2])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        if _run(run_folder, stage):
            return 0
        # A launcher turns every exit code into 1: the file says what this one means.
        (run_folder / stage / STOPPED_FILE).touch()
        return STOPPED_EXIT_CODE
    except RLHFError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def _run(run_folder: Path, stage: Stage) -> bool:
    from rlhf.stages.context import StageContext

    context = StageContext.read(run_folder, stage)
    if stage == "sft":
        from rlhf.stages.sft import run
    elif stage == "reward":
        from rlhf.stages.reward import run
    else:
        from rlhf.stages.ppo import run
    return run(context)


if __name__ == "__main__":
    sys.exit(main())
