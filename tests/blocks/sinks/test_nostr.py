"""The Nostr sink: a run on real relays comes back as the same graph; what is private stays; losses are counted."""

import asyncio
from collections.abc import Sequence

import pytest

from blocks.relays import RelayError, RelayPool
from blocks.sinks.nostr import NostrPolicy, NostrSink
from swarmc.contracts.events import Event, ModuleEnded, ModuleStarted, ProgramEnded, ProgramStarted
from swarmc.contracts.manifest import CompiledModuleManifest, PrivacyMode
from swarmc.contracts.relay import Fetched, Filter
from swarmc.nostr.keys import SecretKey
from swarmc.tracing.graph import Graphs
from swarmc.tracing.notes import TRACE_KIND, notes_of_run, notes_to_graph, notes_to_graphs
from swarmc.tracing.privacy import Redactor
from swarmc.tracing.stream import open_stream
from tests.nostr.relays import LyingRelay, ServerConnection, honest, lying_relay, mute, real_relay, refusing, send
from tests.tracing.drawn_graphs import a_graph

KEY = SecretKey.generate()
MANIFEST = CompiledModuleManifest(signature_name="PlanningSignature", compiled_id="sha256:" + "ab" * 32)
OPEN = NostrPolicy(mode=PrivacyMode.PUBLIC_OK)
ALL = [Filter(authors=(KEY.pubkey,), kinds=(TRACE_KIND,))]


def a_run(number: int = 0, stage: str = "validate", text: str = "what is 2 + 2?") -> list[Event]:
    """The events of one program run with one predictor."""
    root, call = f"{number + 1:016x}", f"{number + 10_001:016x}"
    at = {"run_id": "run-1", "at_ms": 1, "at_ns": 1_000 + number}
    return [
        ProgramStarted(**at, call_id=root, stage=stage, program="Sums", inputs={"ask": text}),
        ModuleStarted(**at, call_id=call, parent_id=root, name="answer", module="Predict", inputs={"ask": text}),
        ModuleEnded(**at, call_id=call, parent_id=root, outputs={"sum": "4"}),
        ProgramEnded(**at, call_id=root, outputs={"sum": "4"}, score_ppm=1_000_000),
    ]


def folded(events: Sequence[Event]) -> list:
    graphs = Graphs()
    for event in events:
        graphs.add(event)
    return [finished.graph for finished in graphs.finished()]


async def test_a_run_told_event_by_event_comes_back_from_a_real_relay_as_the_same_graphs() -> None:
    events = [event for number in range(5) for event in a_run(number)]
    async with real_relay() as url, RelayPool([url]) as relays:
        sink = NostrSink(relays, KEY, OPEN)
        async with open_stream([sink]) as stream:
            for event in events:
                stream.emit(event)
        found = await relays.fetch(ALL)
    assert list(notes_to_graphs(found.events)) == folded(events)
    assert sink.counts == {"graphs published": 5, "events published": len(found.events)}
    assert not sink.dropped


async def test_a_graph_given_by_hand_comes_back_with_its_summary() -> None:
    policy = OPEN.model_copy(update={"summary": True, "kind": 1, "read_back": True, "default_tags": (("app", "x"),)})
    async with real_relay() as one, real_relay() as other, RelayPool([one, other], quorum=2) as relays:
        sink = NostrSink(relays, KEY, policy, now_s=lambda: 1_700_000_000.7)
        events = await sink.publish(a_graph(), MANIFEST)
        found = await relays.fetch([Filter(tags={"t": ("run-1",)}, kinds=(1,))])
    assert notes_to_graph(found.events) == a_graph()
    assert {event.id for event in found.events} == {event.id for event in events}
    assert events[-1].values("dsrs") == ("trace_summary",)
    assert {event.created_at for event in events} == {1_700_000_000}
    assert sink.counts["unconfirmed events"] == 0


@pytest.mark.parametrize("mode", [PrivacyMode.PRIVATE_REPO_REDACTED, PrivacyMode.PRIVATE_REPO_ALLOWED])
async def test_a_private_run_is_not_told_unless_somebody_says_so(mode: PrivacyMode) -> None:
    async with lying_relay(honest) as relay, RelayPool([relay.url]) as relays:
        sink = NostrSink(relays, KEY, NostrPolicy(mode=mode))
        for event in a_run():
            await sink.tell(event)
        assert await sink.publish(a_graph()) == ()
        await sink.aclose()
        assert sink.counts == {"private": 2}
        assert relay.connections == 0
        told = NostrSink(relays, KEY, NostrPolicy(mode=mode, publish_private=True))
        assert len(await told.publish(a_graph())) == 5
        policy = Redactor.of(mode, salt=KEY.derive("swarmc redaction"))
        assert len((await relays.fetch([notes_of_run("run-1", policy)])).events) == 5


async def test_nothing_is_told_by_default() -> None:
    async with lying_relay(honest) as relay, RelayPool([relay.url]) as relays:
        assert await NostrSink(relays, KEY, NostrPolicy()).publish(a_graph()) == ()
        assert relay.heard == []


async def test_prompt_text_and_the_senders_own_key_do_not_leave_the_strictest_mode() -> None:
    policy = NostrPolicy(publish_private=True)
    async with lying_relay(honest) as relay, RelayPool([relay.url]) as relays:
        sink = NostrSink(relays, KEY, policy)
        for event in a_run(text=f"the secret plan of {KEY.nsec()}"):
            await sink.tell(event)
        await sink.aclose()
        assert sink.counts["graphs published"] == 1
        sent = str(relay.heard)
    assert [word for word in ("secret plan", KEY.nsec(), "ask", "sum", "answer", "Sums", "run-1") if word in sent] == []


async def test_stages_and_numbers_that_are_not_to_be_told_are_counted() -> None:
    policy = OPEN.model_copy(update={"most_graphs": 2})
    async with real_relay() as url, RelayPool([url]) as relays:
        sink = NostrSink(relays, KEY, policy)
        for number in range(4):
            for event in (*a_run(number), *a_run(100 + number, stage="search")):
                await sink.tell(event)
        await sink.aclose()
        assert len(notes_to_graphs((await relays.fetch(ALL)).events)) == 2
    assert sink.counts["other stage"] == 4
    assert sink.counts["over most_graphs"] == 2


async def test_a_relay_that_refuses_is_counted_and_does_not_end_the_sink() -> None:
    async with lying_relay(refusing("blocked: no")) as relay, RelayPool([relay.url]) as relays:
        sink = NostrSink(relays, KEY, OPEN)
        async with open_stream([sink]) as stream:
            for number in range(3):
                for event in a_run(number):
                    stream.emit(event)
        assert sink.counts["failed"] == 3
        with pytest.raises(RelayError, match="refused blocked: no"):
            await sink.publish(a_graph())


async def test_a_relay_that_is_mute_holds_up_neither_the_run_nor_its_end() -> None:
    async with lying_relay(mute) as relay, RelayPool([relay.url], timeout_s=60) as relays:
        sink = NostrSink(relays, KEY, OPEN)
        async with asyncio.timeout(10):
            for number in range(4):
                for event in a_run(number):
                    await sink.tell(event)
            await asyncio.sleep(0.1)
            await sink.aclose()
    assert sink.counts["left behind"] == 4


async def test_a_relay_that_says_yes_and_keeps_nothing_is_found_out() -> None:
    async def forgetting(_: LyingRelay, socket: ServerConnection, message: list) -> None:
        if message[0] == "EVENT":
            await send(socket, "OK", message[1]["id"], True, "")
        else:
            await send(socket, "EOSE", message[1])

    async with lying_relay(forgetting) as relay, RelayPool([relay.url]) as relays:
        sink = NostrSink(relays, KEY, OPEN.model_copy(update={"read_back": True}))
        await sink.publish(a_graph())
    assert sink.counts["unconfirmed events"] == 5


async def test_a_relay_that_rewrites_what_it_gives_back_is_not_believed() -> None:
    async def rewriting(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        for event in relay.events.values():
            event["content"] = event["content"].replace("4", "5")
        await honest(relay, socket, message)

    async with lying_relay(rewriting) as relay, RelayPool([relay.url], timeout_s=2) as relays:
        await NostrSink(relays, KEY, OPEN).publish(a_graph())
        found: Fetched = await relays.fetch(ALL)
        assert relays.health[0].unfit > 0
    with pytest.raises(ValueError, match=r"0 graphs|not whole"):
        notes_to_graph(found.events)
