"""A process that makes and pays invoices of its own until it is killed; run as a script with a wallet file."""

import asyncio
import sys
from pathlib import Path

from blocks.wallets import LedgerWallet

START_MSATS = 1_000_000


async def lane(path: Path, number: int) -> None:
    async with (
        LedgerWallet(path=path, account=f"payer{number}", start_msats=START_MSATS).open() as payer,
        LedgerWallet(path=path, account=f"payee{number}").open() as payee,
    ):
        for count in range(100_000):
            invoice = await payee.create_invoice(7, memo="", expiry_s=60)
            await payer.pay(invoice, max_fee_msats=0)
            if count == 0:
                sys.stdout.write("paying\n")
                sys.stdout.flush()
            invoice = await payer.create_invoice(5, memo="", expiry_s=60)
            await payee.pay(invoice, max_fee_msats=0)


async def main() -> None:
    await asyncio.gather(*(lane(Path(sys.argv[1]), number) for number in range(3)))


if __name__ == "__main__":
    asyncio.run(main())
