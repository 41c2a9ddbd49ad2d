"""From a split in the recipe to the records that a stage gets: faulty rows aside, cleaned, chosen, weighted, mixed."""

from rlhf.data.prepare.split import PreparedSplit

__all__ = ["PreparedSplit"]
