"""What became of what one relay was asked: counters that cost nothing to add to."""

from dataclasses import dataclass

from swarmc.contracts.relay import RelayHealth

NEWEST_WEIGHT = 0.2
"""How much of the latency is that of the newest answer."""


@dataclass(slots=True)
class Tally:
    """Counters of `RelayHealth` that change with every message, which a frozen record should not."""

    accepted: int = 0
    refused: int = 0
    unanswered: int = 0
    received: int = 0
    unfit: int = 0
    failures: int = 0
    last_reason: str = ""
    latency_s: float | None = None

    @property
    def answers(self) -> int:
        """How often the relay did something that it was asked for."""
        return self.accepted + self.refused + self.received

    def answered_in(self, seconds: float) -> None:
        known = self.latency_s
        self.latency_s = seconds if known is None else known + NEWEST_WEIGHT * (seconds - known)

    def fail(self, reason: str) -> None:
        self.failures += 1
        self.last_reason = reason

    def health(self, url: str, *, connected: bool) -> RelayHealth:
        return RelayHealth(
            url=url,
            connected=connected,
            accepted=self.accepted,
            refused=self.refused,
            unanswered=self.unanswered,
            received=self.received,
            unfit=self.unfit,
            failures=self.failures,
            last_reason=self.last_reason,
            latency_ms=None if self.latency_s is None else round(1000 * self.latency_s),
        )


def reason_of(error: BaseException) -> str:
    """One line of an error for `last_reason`."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
