"""Every error of swarmc, by what the reader can do about it.

    SwarmcError
    ├── SpecError              what was asked for cannot be: fix the request
    │   ├── ProgramError       the program cannot be loaded, or is used in a way that cannot work
    │   ├── DatasetError       the examples cannot be read, or are too few
    │   └── MetricError        the metric returned what is no score
    ├── VenueError             a model could not answer (retryable or not; paid or not)
    ├── BudgetExhausted        no error of anybody: the stage ends and keeps its best
    ├── LedgerError            the memory cannot be read or written
    │   └── RunFenced          another process has this run
    ├── StoreError             an artifact could not be kept or read
    ├── BundleError            a bundle cannot be read, or does not hold
    ├── RelayError             Nostr relays did not take or give an event
    ├── WalletError            money was not moved, or it is not known whether it was
    ├── IdentityError          a key cannot be read, kept or unlocked
    └── SandboxError           commands cannot be run safely here

Code below `blocks/` raises these and plain Python errors only. Foreign failures (HTTP, SQL, S3)
are translated once, where they enter, by `boundary`. A `code` is stable: it is what a log, a
report and a refusal to another machine carry.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

from swarmc.contracts.relay import RelayAnswer


class SwarmcError(Exception):
    """Base of all. `str(error)` is one clear sentence: what was being done, with which value, what to do.

    Attributes:
        code: Stable word for machines.
        retryable: Whether the same call may succeed later unchanged.
        exit_code: What the command line ends with.
    """

    code: ClassVar[str] = "swarmc"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class SpecError(SwarmcError):
    """What was asked for cannot be done as written."""

    code = "spec"
    exit_code = 2


class ProgramError(SpecError):
    """The program cannot be loaded or run as it stands."""

    code = "program"


class DatasetError(SpecError):
    """The examples cannot be read, lack a field, or are too few."""

    code = "dataset"


class MetricError(SpecError):
    """The metric raised on its own gold answer, or returned what is no score."""

    code = "metric"


class VenueError(SwarmcError):
    """A model did not answer.

    Attributes:
        paid_unknown: The request may have been carried out and billed (a hang, a dropped
            connection). Its reservation is then kept as lost, not given back.
        retry_after_s: Seconds the venue asked us to wait, if it said.
        fault: `venue` when the place failed; `request` when it refused this very request, and
            `context` when it did because the prompt is too long: then the candidate is at fault,
            not the place.
    """

    code = "venue"
    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        paid_unknown: bool = False,
        retry_after_s: float | None = None,
        fault: Literal["venue", "request", "context"] = "venue",
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.paid_unknown = paid_unknown
        self.retry_after_s = retry_after_s
        self.fault = fault


class BudgetExhausted(SwarmcError):
    """A budget does not allow the next call. A limit is not a failure: the stage ends with its best.

    Attributes:
        scope: Which budget: `run`, `stage:search`, `lane:swarm`.
    """

    code = "budget"
    exit_code = 4

    def __init__(self, message: str, *, scope: str) -> None:
        super().__init__(message)
        self.scope = scope


class LedgerError(SwarmcError):
    """The ledger could not be opened, read or written."""

    code = "ledger"
    exit_code = 5


class RunFenced(LedgerError):
    """Another live process holds this run, or took it over while we were away."""

    code = "fenced"
    exit_code = 6


class StoreError(SwarmcError):
    """An artifact could not be written or read back whole."""

    code = "store"
    exit_code = 7


class BundleError(SwarmcError):
    """A bundle cannot be read, or does not hold.

    Attributes:
        line: The number of the line at fault, from 1; 0 when it is the file as a whole.
    """

    code = "bundle"
    exit_code = 8

    def __init__(self, message: str, *, retryable: bool = False, line: int = 0) -> None:
        super().__init__(message, retryable=retryable)
        self.line = line


class RelayError(SwarmcError):
    """Too few relays took an event, or none answered.

    Attributes:
        answers: What each relay said, as far as it had by then.
    """

    code = "relay"
    exit_code = 9

    def __init__(self, message: str, answers: Sequence[RelayAnswer], *, retryable: bool) -> None:
        super().__init__(message, retryable=retryable)
        self.answers = tuple(answers)


class WalletError(SwarmcError):
    """A wallet did not do what it was asked.

    Attributes:
        unknown: The payment may have been made. It is looked up before anything else is done, never repeated.
    """

    code = "wallet"
    exit_code = 10

    def __init__(self, message: str, *, retryable: bool = False, unknown: bool = False) -> None:
        super().__init__(message, retryable=retryable)
        self.unknown = unknown


class IdentityError(SwarmcError):
    """An identity cannot be read, kept or unlocked. No message holds a part of a secret."""

    code = "identity"
    exit_code = 11


class SandboxError(SwarmcError):
    """Commands could not be run, or not within their walls and limits: that is no result of theirs."""

    code = "sandbox"
    exit_code = 12


@contextmanager
def boundary(kind: type[SwarmcError], doing: str, *foreign: type[Exception], retryable: bool = False) -> Iterator[None]:
    """Translate foreign failures into `kind`, once, saying what was being done.

    An error of our own tree passes unchanged.

    Args:
        kind: The class to raise.
        doing: What was being done, with the value: ``"writing the ledger at /x"``.
        foreign: The exceptions that belong to this boundary; all exceptions when none is named.
        retryable: What the raised error says of itself.
    """
    translated = foreign or (Exception,)
    try:
        yield
    except SwarmcError:
        raise
    except translated as error:
        detail = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {detail[0]}" if detail else type(error).__name__
        raise kind(f"{doing}: {reason}", retryable=retryable) from error


def first_swarmc_error(error: BaseException) -> SwarmcError | None:
    """Our own error at the root of `error`, which other libraries may have wrapped (`__cause__`, groups)."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        if isinstance(current, SwarmcError):
            return current
        seen.add(id(current))
        if isinstance(current, BaseExceptionGroup):
            queue.extend(current.exceptions)
        queue += [current.__cause__, current.__context__]
    return None
