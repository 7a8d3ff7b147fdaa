"""Whether a file of play money adds up: no msat came from nowhere, none is lost, no payment is without proof."""

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from swarmc.contracts.errors import WalletError, boundary

_SUMS = """
SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM payments),
       (SELECT coalesce(sum(amount_msats), 0) FROM fundings), (SELECT coalesce(sum(balance_msats), 0) FROM accounts)
"""
_WRONG_BALANCES = """
SELECT name, balance_msats, due FROM (
    SELECT name, balance_msats,
        (SELECT coalesce(sum(amount_msats), 0) FROM fundings WHERE account = accounts.id)
        + coalesce((SELECT sum(amount_msats) FROM invoices JOIN payments ON invoice = invoices.id
                    WHERE payee = accounts.id), 0)
        - coalesce((SELECT sum(amount_msats) FROM invoices JOIN payments ON invoice = invoices.id
                    WHERE payer = accounts.id), 0) AS due
    FROM accounts
) WHERE balance_msats != due
"""
_PROOFS = "SELECT payment_hash, preimage FROM invoices JOIN payments ON invoice = invoices.id"


@dataclass(frozen=True, slots=True)
class Audit:
    """A file that adds up.

    Attributes:
        accounts: How many there are.
        payments: How many were made.
        funded_msats: Play money that ever came in; what the accounts hold together is the same.
    """

    accounts: int
    payments: int
    funded_msats: int


def audited(path: Path) -> Audit:
    """Count everything, at one moment, while others go on paying.

    Raises:
        WalletError: it does not add up, and where; or the file cannot be read.
    """
    with (
        boundary(WalletError, f"auditing the wallet file {path}", sqlite3.Error),
        closing(sqlite3.connect(path, isolation_level=None)) as database,
    ):
        database.execute("BEGIN")
        accounts, payments, funded_msats, held_msats = database.execute(_SUMS).fetchone()
        wrong = database.execute(_WRONG_BALANCES).fetchone()
        proofs = database.execute(_PROOFS).fetchall()
    if wrong is not None:
        raise WalletError(
            f"{path}: account {wrong[0]!r} holds {wrong[1]} msats, by its payments it should be {wrong[2]}"
        )
    if funded_msats != held_msats:
        raise WalletError(f"{path}: {funded_msats} msats came in, but the accounts hold {held_msats}")
    for payment_hash, preimage in proofs:
        if hashlib.sha256(bytes.fromhex(preimage)).hexdigest() != payment_hash:
            raise WalletError(f"{path}: the payment {payment_hash} has a preimage that does not prove it")
    return Audit(accounts, payments, funded_msats)
