"""The page of a run: true to the last event, for this machine alone, and never in the run's way."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import aiohttp
import pytest

from blocks.sinks.hud import KEPT_EVENTS, MOST_SCREENS, Hud, HudSink, snapshot
from swarmc.contracts.canonical import content_id
from swarmc.contracts.completions import Usage
from swarmc.contracts.errors import SpecError
from swarmc.contracts.events import (
    CallEnded,
    CallFailed,
    Event,
    ModuleStarted,
    Note,
    ProgramEnded,
    ProgramStarted,
    RunOpened,
    StageStarted,
    ToolEnded,
    TrialScored,
    Verified,
)
from swarmc.tracing.progress import Progress

AT: dict[str, Any] = {"run_id": "r", "at_ms": 0}
ID = content_id(b"a")
STEP: dict[str, Any] = {**AT, "call_id": "a" * 16, "at_ns": 0}
ANSWERS_S = 10.0


def note(text: object) -> Note:
    return Note(**AT, text=str(text))


def call(number: int) -> CallEnded:
    told = {"request_id": ID, "source": "bought", "usage": Usage(cost_msats=number), "latency_ms": 5}
    return CallEnded(**AT, stage="search", lane="swarm", **told)


class Screen:
    """A client that reads server-sent events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._lines = response.content

    async def next(self) -> dict[str, Any]:
        """The next event: its kind, its id, its data."""
        event: dict[str, Any] = {"event": "message"}
        async with asyncio.timeout(ANSWERS_S):
            while (line := (await self._lines.readline()).decode()) != "\n":
                name, _, value = line.rstrip("\n").partition(": ")
                event[name] = json.loads(value) if name == "data" else value
        return event

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """All events up to one of this kind."""
        seen = [await self.next()]
        while seen[-1]["event"] != kind:
            seen.append(await self.next())
        return seen


@asynccontextmanager
async def screen(sink: HudSink, **headers: str) -> AsyncIterator[Screen]:
    async with aiohttp.ClientSession() as session, session.get(f"{sink.url}events", headers=headers) as response:
        assert response.status == 200, await response.text()
        yield Screen(response)


@pytest.fixture
async def hud() -> AsyncIterator[HudSink]:
    sink = await Hud().open()
    yield sink
    await sink.aclose()


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [event["data"]["text"] for event in events if event["event"] == "message"]


async def test_a_screen_sees_where_the_run_is_and_then_every_event_with_its_id(hud: HudSink) -> None:
    for event in (StageStarted(**AT, stage="search", calls_planned=4), call(7)):
        await hud.tell(event)
    async with screen(hud) as seen:
        first = await seen.next()
        assert (first["event"], first["data"]["spent_msats"], first["data"]["stages"][3]["fraction"]) == (
            "snapshot",
            7,
            0.25,
        )
        await hud.tell(note("a"))
        await hud.tell(call(5))
        one, other, after = [await seen.next() for _ in range(3)]
    assert (one["data"]["text"], other["data"]["kind"]) == ("a", "call_ended")
    assert int(other["id"].split(".")[1]) == int(one["id"].split(".")[1]) + 1 == 4
    assert (after["event"], after["data"]["spent_msats"]) == ("snapshot", 12)


async def test_a_screen_that_comes_back_goes_on_where_it_was(hud: HudSink) -> None:
    async with screen(hud) as seen:
        await seen.next()
        await hud.tell(note("a"))
        last = (await seen.next())["id"]
    await hud.tell(note("b"))
    await hud.tell(note("c"))
    async with screen(hud, **{"Last-Event-ID": last}) as seen:
        assert texts([await seen.next() for _ in range(3)]) == ["b", "c"]


@pytest.mark.parametrize("place", ["deadbeef.0", "0", "", "x", "{token}.-1", "{token}.9e9", "{token}." + "9" * 4000])
async def test_a_place_that_is_not_of_this_server_is_no_place(hud: HudSink, place: str) -> None:
    await hud.tell(note("before"))
    async with screen(hud) as seen:
        token = (await seen.next())["id"].split(".")[0]
    async with screen(hud, **{"Last-Event-ID": place.format(token=token)}) as seen:
        assert (await seen.next())["event"] == "snapshot"
        await hud.tell(note("after"))
        assert texts(await seen.until("message")) == ["after"]


async def test_a_slow_screen_loses_events_and_is_told_how_many_and_nobody_waits(hud: HudSink) -> None:
    total, width = 3 * KEPT_EVENTS, 2_000
    async with screen(hud) as slow, screen(hud) as quick:
        await slow.next()
        await quick.next()
        slowest_s, read = 0.0, 0
        for number in range(0, total, 100):
            start_s = monotonic()
            for one in range(100):
                await hud.tell(note(f"{number + one}".ljust(width)))
            slowest_s = max(slowest_s, monotonic() - start_s)
            while read < number + 100:
                read += len(texts([await quick.next()]))
        assert slowest_s < 0.5
        closing = asyncio.create_task(hud.aclose())
        seen = await slow.until("end")
        await closing
    (lost,) = [event["data"]["events"] for event in seen if event["event"] == "lost"]
    assert lost == hud.lost > 0
    assert len(texts(seen)) + lost == read == total
    assert int(texts(seen)[-1]) == total - 1


async def test_several_screens_see_the_same_and_the_end() -> None:
    sink = await Hud().open()
    async with screen(sink) as one, screen(sink) as other:
        await one.next()
        await other.next()
        await sink.tell(note("the last words"))
        closing = asyncio.create_task(sink.aclose())
        assert texts(await one.until("end")) == texts(await other.until("end")) == ["the last words"]
        await closing


async def test_more_screens_than_a_run_has_room_for_are_refused(hud: HudSink) -> None:
    async with aiohttp.ClientSession() as session:
        held = [await session.get(f"{hud.url}events") for _ in range(MOST_SCREENS)]
        async with session.get(f"{hud.url}events") as refused:
            assert refused.status == 503
        for response in held:
            response.close()


FOREIGN = [
    {"Host": "evil.example"},
    {"Host": "evil.example:{port}"},
    {"Host": "127.0.0.1"},
    {"Host": "127.0.0.1:1"},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost"},
    {"Origin": "https://127.0.0.1:{port}"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("path", ["", "events"])
async def test_other_sites_pages_are_refused(hud: HudSink, headers: dict[str, str], path: str) -> None:
    port = hud.url.split(":")[2].strip("/")
    sent = {name: value.format(port=port) for name, value in headers.items()}
    async with aiohttp.ClientSession() as session, session.get(f"{hud.url}{path}", headers=sent) as answer:
        assert answer.status in (403, 421)
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_its_own_page_is_served_under_both_names_of_this_machine_and_brings_nothing_from_elsewhere(
    hud: HudSink,
) -> None:
    for url in (hud.url, hud.url.replace("127.0.0.1", "localhost")):
        headers = {"Origin": url.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            page = await answer.text()
            assert answer.status == 200
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "//" not in page.replace("// Everything", "")
    assert "{{" not in page
    assert hud.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_there_is_nothing_to_do_but_look(hud: HudSink, method: str) -> None:
    async with aiohttp.ClientSession() as session, session.request(method, f"{hud.url}events") as answer:
        assert answer.status == 405


SECRET = "what the user typed"
WORDS: list[Event] = [
    ProgramStarted(**STEP, stage="search", program="p", inputs={"question": SECRET}),
    ProgramEnded(**STEP, outputs={"answer": SECRET}, failure=SECRET),
    ModuleStarted(**STEP, name="n", module="m", inputs={"question": SECRET}),
    ToolEnded(**STEP, output=SECRET),
    CallFailed(**AT, stage="search", lane="swarm", request_id=ID, code="venue", message=SECRET),
    Verified(**AT, what="signature", holds=True, detail=SECRET),
]


@pytest.mark.parametrize("include_content", [True, False])
@pytest.mark.parametrize("event", WORDS, ids=lambda event: event.kind)
async def test_content_is_told_only_when_it_is_asked_for(event: Event, include_content: bool) -> None:
    sink = await Hud(include_content=include_content).open()
    async with screen(sink) as seen:
        await seen.next()
        await sink.tell(event)
        told = await seen.next()
        after = await seen.next()
    await sink.aclose()
    assert told["data"]["kind"] == event.kind
    assert (SECRET in json.dumps(told)) == include_content
    assert SECRET not in json.dumps(after)


async def test_half_a_character_and_a_line_break_stay_in_their_event(hud: HudSink) -> None:
    text = "\ud83d half\n\ndata: forged\r\nid: 1\u2028"
    async with screen(hud) as seen:
        await seen.next()
        await hud.tell(Note.model_construct(**AT, kind="note", level="info", text=text))
        assert texts([await seen.next()]) == [text]


async def test_a_port_is_given_back_at_the_end_however_often_that_is_told(hud: HudSink) -> None:
    port = int(hud.url.split(":")[2].strip("/"))
    await hud.aclose()
    await hud.aclose()
    again = await Hud(port=port).open()
    await again.aclose()


async def test_a_port_that_is_taken_is_said(hud: HudSink) -> None:
    port = int(hud.url.split(":")[2].strip("/"))
    with pytest.raises(SpecError, match=f"port {port} .0 takes a free one"):
        await Hud(port=port).open()


def test_a_snapshot_of_nothing_is_json() -> None:
    assert json.loads(json.dumps(snapshot(Progress())))["percent"] == 0


def test_the_form_says_what_each_field_is() -> None:
    form = Hud.model_json_schema()["properties"]
    assert {name for name in form if form[name].get("title") and form[name].get("description")} == set(form)


@pytest.mark.slow
async def test_the_page_shows_the_run_in_a_real_browser() -> None:
    api = pytest.importorskip("playwright.async_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    sink, trouble = await Hud().open(), []
    trial = {"stage": "search", "trial": 1, "candidate_id": ID, "score_ppm": 855_000, "count": 40, "best_ppm": 855_000}
    async with api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page()
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((sink.url, "data:,")) or trouble.append(asked.url))
        await page.goto(sink.url)
        hostile = note("<img src=x onerror=console.log('ran')>")
        start = StageStarted(**AT, stage="search", calls_planned=100)
        for event in (RunOpened(**AT, epoch=1, recovered=0), start, hostile, call(41), TrialScored(**AT, **trial)):
            await sink.tell(event)
        await page.locator("#board td").first.wait_for()
        assert "0.855" in (await page.text_content("#board") or "")
        assert "41" in (await page.text_content("#lanes") or "")
        assert "<img src=x" in (await page.text_content("#notes") or "")
        await sink.aclose()
        await page.get_by_text("over", exact=True).wait_for()
        await browser.close()
    assert trouble == []
