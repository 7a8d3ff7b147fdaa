"""What the market must withstand, by row. Tests name theirs with `attack`; a run ends with the table of them."""

import pytest

ATTACKS = {
    "A1": "an event with a right signature and a wrong id",
    "A2": "malformed events of every kind",
    "A3": "tags without values from a valid signer",
    "A4": "a relay gives events that were not asked for",
    "A5": "one event over many relays, reconnects and restarts",
    "A6": "a relay says OK and drops the event",
    "A7": "refusals: duplicate, rate-limited, blocked, auth-required, OK without an id",
    "A8": "no EOSE, half-open sockets, slow drips",
    "A9": "floods of NOTICE, CLOSED and AUTH; AUTH for another relay",
    "A10": "frames beyond the limit",
    "A11": "a relay rewrites content",
    "A12": "relays disagree on the order",
    "A13": "a stranger's relay address points into our network",
    "B1": "an old request is replayed",
    "B2": "a request from the future",
    "B3": "a request for somebody else",
    "B4": "a kind that is not offered",
    "B5": "inputs and parameters beyond the limits",
    "B8": "a bid below the price",
    "B9": "a thousand jobs of one key, and of many",
    "B10": "a cancellation by somebody else",
    "B12": "an encrypted job's text leaks",
    "B14": "an identical paid job twice; one event twice",
    "B15": "kill -9 of the provider at every step",
    "C1": "an invoice that differs from its quote",
    "C2": "a price below what the wallet can ask for",
    "C3": "less paid than quoted",
    "C4": "a payment after the quote expired",
    "C5": "a webhook or notification that lies",
    "C7": "a preimage that does not hash to the payment's hash",
    "C8": "one payment for two jobs",
    "C9": "earnings counted twice",
    "C10": "the wallet is down",
    "C11": "play money taken for money",
    "D1": "a result or an invoice of somebody who was not asked",
    "D2": "open bidding: another provider after one was approved",
    "D3": "a result of another kind, job, customer or request",
    "D4": "an invoice above the bid, of another amount or network, expired, or seen before",
    "D5": "an invoice without an amount",
    "D6": "parallel calls overspend",
    "D7": "two invoices for one job",
    "D8": "paid, and no result",
    "D9": "an answer that comes while the request is published",
    "D10": "waiting for invoices of a free provider",
    "D14": "an empty answer, and one that repeats what was asked",
    "D15": "a thousand results for one job",
    "D16": "clocks that are off by a day",
    "D17": "another identity on another path",
    "D18": "a cost that is not what was paid",
    "E1": "the vectors of NIP-06",
    "E2": "a tampered identity file",
    "E3": "hostile Argon2 parameters",
    "E4": "a secret in a text form, a log or an error",
    "E5": "a kill while the identity is written; its file's mode",
    "E6": "wallet answers of somebody else, for another request, or replayed",
}
"""Rows of jobs that run commands or agents (B6, B7, B11, B13, D11 to D13) and of zaps (C6) come with these."""

PROPERTY = "attack"


def mark_items(items: list[pytest.Item]) -> None:
    """Give every test its rows as properties, which reach whoever counts however many processes test."""
    for item in items:
        for marker in item.iter_markers("attack"):
            unknown = [row for row in marker.args if row not in ATTACKS]
            if unknown:
                raise pytest.UsageError(f"{item.nodeid}: no such attack: {', '.join(unknown)} (tests/attacks.py)")
            item.user_properties += [(PROPERTY, row) for row in marker.args]


def table_of(reporter: pytest.TerminalReporter) -> list[str]:
    """One line for each row that was tested; of a run of most rows, those that were not as well."""
    counts: dict[str, list[int]] = {row: [0, 0] for row in ATTACKS}
    for outcome, place in (("passed", 0), ("failed", 1), ("error", 1)):
        for report in reporter.stats.get(outcome, []):
            for name, row in getattr(report, "user_properties", ()):
                if name == PROPERTY:
                    counts[row][place] += 1
    lines = [
        f"{row:>4}  {ATTACKS[row]:<82} {passed:>3} passed" + (f", {failed} FAILED" if failed else "")
        for row, (passed, failed) in counts.items()
        if passed or failed
    ]
    untested = [row for row, count in counts.items() if not any(count)]
    return (
        lines if not lines or len(untested) > len(lines) else [*lines, f"not tested here: {', '.join(untested) or '-'}"]
    )
