"""The completions that a run used, with what was asked and answered, page by page."""

from blocks.ledger.database import Database, Row
from blocks.ledger.jobs import account
from swarmc.contracts.bundle import Purchase
from swarmc.contracts.completions import Completion, CompletionRequest, Usage
from swarmc.contracts.errors import LedgerError, boundary
from swarmc.contracts.money import Receipt

PAGE_ROWS = 100
"""Read at once: each comes with its whole prompt, and buyers wait meanwhile."""

_BEGINNING = (0, "")
_COLUMNS = (
    *("request_id", "reservation_id", "run_id", "stage", "lane", "venue", "model", "completion_id", "prompt_tokens"),
    *("completion_tokens", "cost_msats", "estimated", "simulated", "settled_at_us", "completion"),
)
_READ = ", ".join(f"t.{name}" for name in _COLUMNS)
_AFTER = "(t.settled_at_us, t.reservation_id) > (?, ?)"
# A repeat's request is the first purchase's; a use is a row of its own, without the receipt it points at.
_SQL = f"""
SELECT 'bought', {_READ}, t.request FROM swarmc_completions t WHERE t.run_id = ? AND {_AFTER}
UNION ALL
SELECT 'repeat', {_READ}, c.request FROM swarmc_repeats t JOIN swarmc_completions c ON c.request_id = t.request_id
WHERE t.run_id = ? AND {_AFTER}
UNION ALL
SELECT 'reused', {_READ}, t.request FROM swarmc_uses u JOIN swarmc_completions t ON t.request_id = u.request_id
WHERE u.run_id = ? AND {_AFTER}
ORDER BY settled_at_us, reservation_id LIMIT ?
"""  # noqa: S608 - names of our own tables; every value is a parameter


def purchases_after(
    database: Database, run_id: str, after: tuple[int, str] = _BEGINNING
) -> tuple[list[Purchase], tuple[int, str]]:
    """The next completions that a run used, oldest first, and what to go on from.

    Raises:
        LedgerError: no such run, or a damaged row.
    """
    if after == _BEGINNING:
        account(database, run_id)  # Refuses a run that is not there.
    rows = database.rows(_SQL, (*(run_id, *after) * 3, PAGE_ROWS))
    last = dict(zip(_COLUMNS, rows[-1][1:], strict=False)) if rows else {}
    return [_purchase(row) for row in rows], (last["settled_at_us"], last["reservation_id"]) if rows else after


def _purchase(row: Row) -> Purchase:
    source, *values, request = row
    columns = dict(zip(_COLUMNS, values, strict=True))
    completion, at_us = columns.pop("completion"), columns.pop("settled_at_us")
    del columns["reservation_id"]
    usage = Usage(**{name: columns.pop(name) for name in Usage.model_fields})
    with boundary(LedgerError, f"reading the purchase of {columns['request_id']} (its row in the ledger is damaged)"):
        return Purchase(
            receipt=Receipt(usage=usage, settled_at_ms=at_us // 1000, **columns),
            source=source,
            request=CompletionRequest.model_validate_json(bytes(request)),
            completion=Completion.model_validate_json(bytes(completion)),
        )
