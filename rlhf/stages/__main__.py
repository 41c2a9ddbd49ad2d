"""A stage's process: `python -m rlhf.stages RUN_FOLDER STAGE`, started by the pipeline, alone or under a launcher.

Exits with 0 when the stage has published or asks to be started again, 75 when a signal stopped it after saving, 1 on an error that a user can
mend (one message, no traceback); anything else is a defect and shows its traceback.
"""

import os
import sys
from pathlib import Path
from typing import cast

from rlhf.errors import RLHFError
from rlhf.recipe import Stage
from rlhf.stages.inputs import AGAIN_FILE, ERRORS_FOLDER, STOP_FILE, STOPPED_EXIT_CODE, STOPPED_FILE
from rlhf.stages.last_words import end_rank, keep_tracebacks, write_last_words
from rlhf.stages.signals import die_with_parent, die_with_siblings, listen_for_stop


def main() -> int:
    """Run one stage."""
    die_with_parent()
    die_with_siblings()
    run_folder, stage = Path(sys.argv[1]), cast(Stage, sys.argv[2])
    listen_for_stop(run_folder / stage / STOP_FILE)
    errors = run_folder / stage / ERRORS_FOLDER
    keep_tracebacks(errors)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers.utils import logging as transformers_logging

    from rlhf.stages.ending import end_in_order
    from rlhf.stages.spikes import Rollback

    transformers_logging.disable_progress_bar()
    try:
        code = 0 if _run(run_folder, stage) else STOPPED_EXIT_CODE
    except Rollback:
        (run_folder / stage / AGAIN_FILE).touch()
        code = 0
    except RLHFError as error:
        write_last_words(errors, f"error: {error}")
        print(f"error: {error}", file=sys.stderr, flush=True)
        end_rank(error.exit_code)
        return error.exit_code
    if code == STOPPED_EXIT_CODE:
        # A launcher turns every exit code into 1: the file says what this one means.
        (run_folder / stage / STOPPED_FILE).touch()
    end_in_order(code)
    return code


def _run(run_folder: Path, stage: Stage) -> bool:
    from rlhf.stages.context import StageContext
    from rlhf.stages.footprint import peak_memory
    from rlhf.stages.sharded import prepare_process, require_device_for_offload

    context = StageContext.read(run_folder, stage)
    prepare_process(context.recipe.launch)
    require_device_for_offload(context.recipe.launch)
    if stage == "sft":
        from rlhf.stages.sft import run
    elif stage == "reward":
        from rlhf.stages.reward import run
    else:
        from rlhf.stages.ppo import run
    done = run(context)
    print(f"rank {os.environ.get('RANK', '0')}: peak memory {peak_memory()}", flush=True)
    return done


if __name__ == "__main__":
    sys.exit(main())
