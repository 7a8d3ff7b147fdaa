"""Vouch: sign what was compiled, from which examples, by which calls, with which scores."""

from collections.abc import AsyncIterator

from swarmc.contracts.bundle import Purchase, ledger_root
from swarmc.contracts.manifest import CompiledModuleManifest
from swarmc.contracts.ports import Store
from swarmc.tracing.statements import Sign, signed_statement


async def vouch(manifest: CompiledModuleManifest, purchases: AsyncIterator[Purchase], store: Store, sign: Sign) -> str:
    """Put a signed in-toto statement beside the manifest; return where a person opens it.

    Args:
        manifest: Of the run.
        purchases: Every completion that the run used, oldest first.
        store: Where artifacts go.
        sign: Signs bytes.
    """
    root = ledger_root([purchase.receipt async for purchase in purchases])
    statement = signed_statement(manifest, root, sign)
    uri = await store.put(statement.canonical(), name="statement.json")
    return await store.label(f"runs/{manifest.run_id}/statement.json", uri)
