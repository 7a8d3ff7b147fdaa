"""What a check of a bundle goes by, and what it finds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from swarmc.contracts.bundle import Finding, Signature
from swarmc.contracts.candidates import Outcome, Score, Validation

MOST_FAULTS = 100


@dataclass(frozen=True)
class Rules:
    """The arithmetic that a bundle is held to.

    Attributes:
        mean: Scores in ppm to their mean with its interval.
        paired: The same of paired differences.
        decide: Validation, count of search examples, whether the winner runs already: whether it may be promoted,
            and the reason.
        signed: Whether a signature is one of these bytes, `None` for a scheme that it does not know; nothing where
            signatures cannot be checked.
    """

    mean: Callable[[Sequence[int]], Score]
    paired: Callable[[Sequence[int], Sequence[int]], Score]
    decide: Callable[[Validation, int, bool], tuple[bool, str]]
    signed: Callable[[bytes, Signature], bool | None] | None = None


@dataclass(frozen=True)
class Rescored:
    """Outcomes made anew from the recorded answers.

    Attributes:
        outcomes: By candidate and example.
        why_not: Why there are none, or not all; empty when there are.
    """

    outcomes: Mapping[tuple[str, str], Outcome] = field(default_factory=dict)
    why_not: str = ""


@dataclass
class Notes:
    """What the checks found so far."""

    faults: list[Finding] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def expect(self, holds: bool, line: int, what: str) -> bool:
        """Note a fault unless it holds; say whether it does."""
        if not holds and len(self.faults) < MOST_FAULTS:
            self.faults.append(Finding(line=line, what=what))
        return holds

    def done(self, before: int, what: str) -> None:
        """Note what was checked, when it added no fault to the `before` that there were."""
        if len(self.faults) == before:
            self.held.append(what)
