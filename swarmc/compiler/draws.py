"""Draws: one sample of what everything may be worth, and what is best in it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Choice = tuple[int, ...]
Floats = NDArray[np.floating[Any]]

DECIMALS = 9
"""What is compared or carried on is rounded so, far above what machines round differently."""
TOP_CELLS, MANY_GROUPS = 3, 5


@dataclass(frozen=True)
class Draw:
    """One sample of all effects.

    Attributes:
        tables: By group, what every combination of its choices adds.
        tried: The effects of whole combinations that were tried; of others they are taken as 0.
    """

    tables: Sequence[Floats]
    tried: Mapping[Choice, float]

    def value(self, choice: Choice) -> float:
        """The logit of a combination, but for the constant."""
        total, at = self.tried.get(choice, 0.0), 0
        for table in self.tables:
            total += float(table[choice[at : at + table.ndim]])
            at += table.ndim
        return round(total, DECIMALS) if total > -np.inf else total

    def best(self, closed: Collection[Choice], only: Collection[Choice] | None = None) -> Choice | None:
        """The combination that is best in this sample, of `only` or of all, without those `closed`."""
        if only is not None:
            open_ones: Iterable[Choice] = only
        elif len(self.tables) == 1:
            open_ones = _top_cells(self.tables[0], len(closed) + 1)
        else:
            tops = [_top_cells(table, TOP_CELLS if len(self.tables) < MANY_GROUPS else 2) for table in self.tables]
            open_ones = chain((tuple(chain.from_iterable(cells)) for cells in product(*tops)), self.tried)
        values = {choice: self.value(choice) for choice in open_ones if choice not in closed}
        return max(
            (choice for choice, value in values.items() if value > -np.inf), key=values.__getitem__, default=None
        )


def _top_cells(table: Floats, count: int) -> list[Choice]:
    """The indices of a table's highest values."""
    order = np.argsort(-np.round(table, DECIMALS), axis=None, kind="stable")[:count]
    return [tuple(int(i) for i in cell) for cell in zip(*np.unravel_index(order, table.shape), strict=True)]
