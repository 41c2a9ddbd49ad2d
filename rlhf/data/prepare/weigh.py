"""Weights in the loss by group."""

import math

from rlhf.data.fault import make_fault
from rlhf.data.place import Located
from rlhf.data.prepare.groups import group_name
from rlhf.errors import DataError
from rlhf.recipe.preparation import RowWeights
from rlhf_schemas import PreferenceRecord, Record, SFTRecord


class Weigher:
    """Multiplies the rows' weights by their groups' factors.

    Args:
        weights: the factors.
        name: the source, for errors.
    """

    def __init__(self, weights: RowWeights, name: str) -> None:
        self.num_weighted = 0
        self._weights, self._name = weights, name
        self._unmet = set(weights.values)

    def meet(self, item: Located[Record]) -> None:
        """Remember that the row's group occurs, whether or not the row is given.

        Raises:
            DataError: the row has no group.
        """
        self._unmet.discard(group_name(item, self._weights.by))

    def apply(self, item: Located[Record]) -> Located[Record]:
        """The row with its new weight.

        Raises:
            DataError: the product is not a finite number above 0.
        """
        factor = self._weights.values.get(group_name(item, self._weights.by))
        if factor is None:
            return item
        record = item.record
        assert isinstance(record, SFTRecord | PreferenceRecord), (
            "the recipe's rules leave weights to these kinds"
        )
        weight = (1.0 if record.weight is None else record.weight) * factor
        if not (math.isfinite(weight) and weight > 0):
            fault = make_fault(
                "out_of_range", item.place, f"becomes {weight} by prepare.weights", field="weight"
            )
            raise DataError(str(fault))
        self.num_weighted += 1
        return Located(record.model_copy(update={"weight": weight}), item.place)

    def finish(self) -> None:
        """After all rows: every named group must have occurred.

        Raises:
            DataError: names of groups that no row has: a slip of the pen would change nothing without a word.
        """
        if self._unmet:
            names = ", ".join(sorted(self._unmet))
            raise DataError(
                f"{self._name}: prepare.weights names groups that no row has: {names}",
                f"Correct or remove them; rows are grouped by {self._weights.by}.",
            )
