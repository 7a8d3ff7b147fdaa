"""Bills: by which terms a run's is written, and what became of one that was."""

from collections import Counter
from collections.abc import Mapping

from blocks.stores import open_store
from blocks.stores.addresses import root_of
from blocks.venues.litellm import LiteLLM
from blocks.venues.litellm_prices import MSATS_PER_USD
from swarmc.compiler.around import price_msats
from swarmc.compiler.billing import Terms, bill_of, reference_of, unknown
from swarmc.compiler.quoting import Quoted
from swarmc.contracts.bill import Bill
from swarmc.contracts.canonical import content_id
from swarmc.contracts.completions import Lane, Stage
from swarmc.contracts.errors import StoreError
from swarmc.contracts.manifest import CompiledModuleManifest
from swarmc.contracts.money import Account, RunRecord
from swarmc.contracts.ports import Ledger
from swarmc.contracts.spec import CompileSpec

BILL = "bill.json"


def terms_of(spec: CompileSpec, lanes: Mapping[Lane, Quoted], blocks: Mapping[Lane, object]) -> Terms:
    """The lane that a run's bill compares with, as far as it says its price, and the rate for dollars.

    Args:
        spec: What was asked for.
        lanes: Its open venues.
        blocks: Their configuration, as far as they have any: the rate is the reference lane's, else any lane's.
    """
    reference = reference_of(spec)
    first = sorted(blocks, key=lambda lane: lane != reference)
    rates = (block.msats_per_usd for lane in first if isinstance(block := blocks[lane], LiteLLM))
    rate = next(rates, MSATS_PER_USD)
    if reference is None:
        return Terms(rate)
    venue = lanes[reference].venue
    charge = lambda prompt, completion, calls: price_msats(venue, prompt, completion, calls)  # noqa: E731
    return Terms(rate, reference, charge)


async def play_of(ledger: Ledger, account: Account) -> dict[tuple[Stage, Lane], int]:
    """By stage and lane, the msats of a run that were play money, by its receipts."""
    play: Counter[tuple[Stage, Lane]] = Counter()
    if account.total.msats:
        async for receipt in ledger.receipts(account.run_id):
            if receipt.usage.simulated and receipt.usage.cost_msats:
                play[receipt.stage, receipt.lane] += receipt.usage.cost_msats
    return dict(play)


async def bill_again(ledger: Ledger, record: RunRecord) -> tuple[Bill, str]:
    """A run's bill, what was paid read from the ledger anew; and why nothing is compared in it, if so.

    The prices of the reference lane are those of the bill that the run left, as long as its account is still
    what that bill says.

    Raises:
        LedgerError: no such run.
    """
    account = await ledger.account(record.run_id)
    play = await play_of(ledger, account)
    plain = bill_of(account, Terms(MSATS_PER_USD), play)
    if record.manifest_uri is None:
        return plain, f"the run is {record.state}; what other lanes would have cost is told at its end"
    try:
        kept = await _kept(record, record.manifest_uri)
    except StoreError as error:
        return plain, f"the bill that the run left cannot be read: {error}"
    if kept is None:
        return plain, "the run left no bill; what other lanes would have cost is not known"
    terms = Terms(kept.msats_per_usd, kept.reference, unknown)
    again = bill_of(account, terms, play)
    if _sums(again) != _sums(kept):
        why = (
            f"the bill that the run left says {kept.msats:,} msats for {kept.calls:,} calls, which the ledger does not"
        )
        return bill_of(account, Terms(kept.msats_per_usd), play), why
    return kept, ""


async def _kept(record: RunRecord, manifest_uri: str) -> Bill | None:
    async with open_store(root_of(manifest_uri)) as store:
        manifest = CompiledModuleManifest.model_validate_json(await store.get(manifest_uri))
        data = await store.read(f"runs/{record.run_id}/{BILL}")
    if BILL not in manifest.artifacts or data is None:
        return None
    if content_id(data) != manifest.artifacts[BILL]:
        raise StoreError(f"runs/{record.run_id}/{BILL} is not the file that the manifest names; restore it")
    return Bill.model_validate_json(data)


def _sums(bill: Bill) -> list[tuple[object, ...]]:
    """What of a bill the ledger knows."""
    unknown_there = {"premium_msats", "estimated"}
    return [tuple(line.model_dump(exclude=unknown_there).values()) for line in bill.lines]
