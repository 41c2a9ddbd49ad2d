"""The stages in order: what to reuse, resume or rebuild and why; each in a process group of its own. Imports no torch."""

from rlhf.pipeline.run import RunOptions, run_recipe

__all__ = ["RunOptions", "run_recipe"]
