"""The sinks that a person named: saved blocks, an OTLP receiver's address, a file of spans, a screen."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from blocks.sinks.hud import Hud
from blocks.sinks.notes import NostrNotes
from blocks.sinks.telemetry import Telemetry
from swarmc.contracts.errors import SpecError, boundary
from swarmc.contracts.manifest import PrivacyMode
from swarmc.contracts.ports import Sink

Saved = Telemetry | NostrNotes | Hud
SAVED: dict[str, type[Saved]] = {kind.get_block_type_slug(): kind for kind in (Telemetry, NostrNotes, Hud)}
"""Every sink that has a saved form, by its block type's slug."""


@asynccontextmanager
async def find_sinks(references: Sequence[str], mode: PrivacyMode) -> AsyncIterator[tuple[Sink, ...]]:
    """Open them. Whoever is given them closes them; what they hold is given back on leaving.

    Args:
        references: Saved blocks as `slug/name`, `http://` addresses of OTLP receivers, `.jsonl` files, `hud` or
            `hud:PORT` for a page on this machine.
        mode: What may leave the machine.

    Raises:
        SpecError: a reference names no sink, or one that cannot be opened.
        StoreError: a file cannot be written.
    """
    async with AsyncExitStack() as stack:
        sinks: list[Sink] = []
        for reference in references:
            match await find_sink(reference):
                case Telemetry() as found:
                    sinks.append(found.open())
                case NostrNotes() as found:
                    sinks.append(await stack.enter_async_context(found.open(mode)))
                case Hud() as found:
                    hud = await found.open()
                    stack.push_async_callback(hud.aclose)
                    sinks.append(hud)
        yield tuple(sinks)


async def find_sink(reference: str) -> Saved:
    """The configuration that a reference names. Raises as `find_sinks`."""
    slug, _, name = reference.partition("/")
    if slug in SAVED and name:
        with boundary(SpecError, f"loading the saved sink {reference!r}; see `prefect block ls`"):
            found = await SAVED[slug].aload(name)
            assert isinstance(found, Saved)
            return found
    word, _, port = reference.partition(":")
    if word == "hud" and (not port or port.isdecimal()):
        with boundary(SpecError, f"the sink {reference!r} names no port from 0 to 65535"):
            return Hud(port=int(port or 0))
    if reference.startswith(("http://", "https://")):
        return Telemetry(endpoint=reference)
    if reference.endswith(".jsonl"):
        return Telemetry(file=Path(reference))
    raise SpecError(
        f"{reference!r} names no place to tell a run: give `hud` for a page in the browser, an OTLP address such as "
        f"http://127.0.0.1:4318, a file such as spans.jsonl, or a saved block ({', '.join(SAVED)}) as slug/name"
    )
