"""Demands: what bootstrap and proposals ask for at most, whoever asks."""

from swarmc.compiler.demonstrations import MOST_DISTINCT
from swarmc.contracts.money import Account
from swarmc.contracts.spec import PlannedSearch


def bootstrap_runs(spec: PlannedSearch, train: int) -> int:
    """Program runs that demonstrations are made from, of `train` examples."""
    return min(train, min(spec.demo_sets, MOST_DISTINCT) * spec.max_bootstrapped_demos)


def proposals(spec: PlannedSearch, predictors: int) -> int:
    """Calls for a summary of the data and for instructions, with one more for every two that may repeat others."""
    return predictors * (spec.instructions + -(-spec.instructions // 2)) + 1


def bootstrap_calls(account: Account, *, judged: bool) -> int:
    """Completions that bootstrap's program runs took, or those of a judge on them."""
    own = [line.tally for line in account.lines if line.stage == "bootstrap" and (line.lane == "judge") == judged]
    return sum(tally.calls + tally.reused for tally in own)
