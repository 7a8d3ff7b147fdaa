"""Demands: what bootstrap and proposals ask for at most, whoever asks."""

from swarmc.compiler.demonstrations import MOST_DISTINCT
from swarmc.contracts.money import Account
from swarmc.contracts.spec import CompileSpec, PlannedSearch

ASKED_TEXTS, ASKED_EXAMPLES = 16, 8
"""Most texts that the better lane is asked about after a search, and examples that each of them meets there."""
ASKED_PERCENT = 80
"""Most of a climb that these runs take: to stay in a useless lane costs more than a short race, and half of them are
runs of the race."""
FEWEST_CLIMBED = 100 * ASKED_TEXTS * ASKED_EXAMPLES // ASKED_PERCENT
"""A climb in which all of them have room."""


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


def group_runs(job: CompileSpec) -> tuple[int, int]:
    """Program runs that one answer of the validation lane takes, at least and at most."""
    asked = job.redundancy
    return (1, 1) if asked is None else (asked.agree, asked.of)


def climb_runs(job: CompileSpec, runs: int) -> int:
    """Program runs in the validation lane after a search of so many in a cheaper one: most often a percentage, never
    more than half as many, and if possible enough to ask whether that lane bears the search out."""
    asked = job.transfer_test
    if asked is None or not asked.climb_percent:
        return 0
    return min(max(runs * asked.climb_percent // 100, FEWEST_CLIMBED), runs // 2)


def transfer_cells(job: CompileSpec, search_examples: int, runs: int) -> int:
    """Program runs in each lane that show whether the cheap one predicts the better one.

    None where the search itself is not at least twice as large: it would be eaten by its test.
    """
    asked = job.transfer_test
    cells = asked.texts * min(asked.examples, search_examples) if asked is not None else 0
    return cells if runs >= 2 * cells else 0
