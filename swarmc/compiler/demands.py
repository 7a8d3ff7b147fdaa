"""Demands: what bootstrap and proposals ask for at most, whoever asks."""

from swarmc.compiler.demonstrations import MOST_DISTINCT
from swarmc.contracts.spec import PlannedSearch


def bootstrap_runs(spec: PlannedSearch, train: int) -> int:
    """Program runs that demonstrations are made from, of `train` examples."""
    return min(train, min(spec.demo_sets, MOST_DISTINCT) * spec.max_bootstrapped_demos)


def proposals(spec: PlannedSearch, predictors: int) -> int:
    """Calls for a summary of the data and for instructions, with one more for every two that may repeat others."""
    return predictors * (spec.instructions + -(-spec.instructions // 2)) + 1
