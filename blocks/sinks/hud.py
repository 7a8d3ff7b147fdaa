"""A run in a browser of this machine: server-sent events on a loopback port, and one page that shows them."""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import final

from aiohttp import web
from prefect.blocks.core import Block
from pydantic import Field, JsonValue

from swarmc.contracts.completions import Stage
from swarmc.contracts.errors import SpecError, boundary
from swarmc.contracts.events import Event
from swarmc.tracing.progress import Progress

HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("hud.html")
KEPT_EVENTS = 2_000
"""For screens that come back, and for slow ones: what is older is lost to them, and counted."""
EVENTS_A_WRITE = 200
EVERY_S = 0.1
SNAPSHOT_EVERY_S = 0.5
SILENCE_S = 15.0
GRACE_S = 2.0
"""For the screens to read the end: less than the stream gives a sink."""
MOST_SCREENS = 16
MOST_NOTES = 20
MOST_CANDIDATES = 20

TOLD = frozenset(
    # What is not named here is content (what users typed, what models and other programs said), and so is
    # every field that events get later, until somebody says that it is not.
    [
        "kind",
        "run_id",
        "at_ms",
        "epoch",
        "recovered",
        "plan",
        "budget",
        "stage",
        "calls_planned",
        "ended",
        "note",
        "lane",
        "request_id",
        "source",
        "usage",
        "latency_ms",
        "parent_id",
        "model",
        "venue",
        "started_ns",
        "ended_ns",
        "code",
        "at_ns",
        "trial",
        "candidate_id",
        "score_ppm",
        "count",
        "best_ppm",
        "call_id",
        "program",
        "example_id",
        "rollout_id",
        "name",
        "module",
        "signature",
        "tool",
        "adapter",
        "phase",
        "parents",
        "msats",
        "state",
        "simulated",
        "what",
        "holds",
        "level",
        "text",
    ]
)
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@final
class Hud(Block):
    """Shows a run in a browser on this machine, while it goes on."""

    _block_type_name = "swarmc hud"
    _block_type_slug = "swarmc-hud"
    _description = "Shows swarmc's runs live: progress, candidates, lanes. For browsers of the same machine only."

    port: int = Field(
        default=0, ge=0, le=65_535, title="Port", description="On 127.0.0.1; 0 takes one that is free, and says which"
    )
    include_content: bool = Field(
        default=False,
        title="Include content",
        description=(
            "Also show inputs, outputs, candidates and the words of failures. Left out by default: they are what "
            "users typed and what models said"
        ),
    )

    async def open(self) -> "HudSink":
        """The sink, which serves from now on and which the stream closes.

        Raises:
            SpecError: the port is taken or not allowed.
        """
        sink = HudSink(include_content=self.include_content)
        await sink.serve(self.port)
        return sink


@final
class HudSink:
    """Keeps the newest events and lets every screen read them at its own pace.

    A screen is a place in what is kept, so a slow one holds nothing up: it finds that events are gone,
    is told how many, and is right again with the next snapshot. Nothing is encoded for nobody.

    Args:
        include_content: Whether everything is told, or only the fields of `TOLD`.

    Attributes:
        lost: Events that screens were told they had missed.
    """

    def __init__(self, *, include_content: bool = False) -> None:
        self.lost = 0
        self._content = include_content
        self._progress = Progress()
        self._kept: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._told = 0
        self._over = False
        self._screens: set[asyncio.Task[None]] = set()
        self._token = secrets.token_hex(4)
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self._port}/"

    async def serve(self, port: int) -> None:
        """Listen on a loopback port; 0 takes a free one.

        Raises:
            SpecError: the port is taken or not allowed.
        """
        app = web.Application(middlewares=[self._guard], client_max_size=0)
        app.router.add_get("/", self._page, allow_head=False)
        app.router.add_get("/events", self._events, allow_head=False)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, port)
        with boundary(SpecError, f"serving the run's page on port {port} (0 takes a free one)", OSError):
            await site.start()
        self._port = self._runner.addresses[0][1]

    async def tell(self, event: Event) -> None:
        self._progress.add(event)
        self._kept.append(event)
        self._told += 1

    async def aclose(self) -> None:
        """Let the screens read the end, and leave. Safe to repeat."""
        self._over = True
        if self._screens:
            await asyncio.wait(self._screens, timeout=GRACE_S)
        for screen in self._screens:
            screen.cancel()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Only pages that this server gave may read it: a name that was pointed at this machine is not enough."""
        here = {f"{name}:{self._port}" for name in (HOST, "localhost")}
        origin = request.headers.get("Origin")
        if request.headers.get("Host") not in here:
            raise web.HTTPMisdirectedRequest(text=f"this is {self.url} and nothing else\n", headers=HEADERS)
        foreign = origin is not None and origin not in {f"http://{name}" for name in here}
        if foreign or request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise web.HTTPForbidden(text="another site's page may not read this\n", headers=HEADERS)
        return await handler(request)

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        )
        text = PAGE.read_text(encoding="utf-8").replace("{{nonce}}", nonce)
        headers = HEADERS | {"Content-Security-Policy": policy}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if len(self._screens) >= MOST_SCREENS:
            raise web.HTTPServiceUnavailable(text=f"{MOST_SCREENS} screens are open; close one\n", headers=HEADERS)
        response = web.StreamResponse(headers=HEADERS | {"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        screen = asyncio.create_task(self._show(response, self._place(request.headers.get("Last-Event-ID"))))
        self._screens.add(screen)
        screen.add_done_callback(self._screens.discard)
        try:
            await screen
        except (ConnectionError, asyncio.CancelledError):
            screen.cancel()
        return response

    def _place(self, last_event_id: str | None) -> int:
        """How many events a screen has seen: those of this server alone are its own to go on from."""
        token, _, number = (last_event_id or "").partition(".")
        if token == self._token and number.isdecimal() and len(number) < 16:
            return min(int(number), self._told)
        return self._told

    async def _show(self, response: web.StreamResponse, place: int) -> None:
        """Bring a screen up to date again and again, until the run is over."""
        await response.write(self._snapshot(place))
        shown, silent_s, stale_s = self._told, 0.0, 0.0
        while True:
            over = self._over
            parts, place = self._batch(place)
            silent_s, stale_s = silent_s + EVERY_S, stale_s + EVERY_S
            if self._told != shown and (over or stale_s >= SNAPSHOT_EVERY_S):
                parts.append(self._snapshot(place))
                shown, stale_s = self._told, 0.0
            if over and place == self._told:
                await response.write(b"".join([*parts, _sent("end", {"run_id": self._progress.run_id})]))
                return
            if parts or silent_s >= SILENCE_S:
                await response.write(b"".join(parts) or b":\n\n")
                silent_s = 0.0
            await asyncio.sleep(0 if place < self._told else EVERY_S)

    def _batch(self, place: int) -> tuple[list[bytes], int]:
        """The events after a place, some at a time, after a word on those that are gone."""
        parts: list[bytes] = []
        oldest = self._told - len(self._kept)
        if place < oldest:
            parts.append(_sent("lost", {"events": oldest - place}))
            self.lost += oldest - place
            place = oldest
        for at in range(place - oldest, min(place - oldest + EVENTS_A_WRITE, len(self._kept))):
            place += 1
            parts.append(_sent(None, self._fields(self._kept[at]), self._id(place)))
        return parts, place

    def _snapshot(self, place: int) -> bytes:
        return _sent("snapshot", snapshot(self._progress), self._id(place))

    def _id(self, place: int) -> str:
        return f"{self._token}.{place}"

    def _fields(self, event: Event) -> Mapping[str, JsonValue]:
        return event.model_dump(include=None if self._content else set(TOLD))


def snapshot(progress: Progress) -> dict[str, JsonValue]:
    """What a screen shows of a run, as JSON: scores in parts per million, money in msats, times in milliseconds."""
    run = progress.budget.run if progress.budget else None
    return {
        "run_id": progress.run_id,
        "epoch": progress.epoch,
        "percent": round(progress.percent, 1),
        "sentence": progress.sentence,
        "elapsed_ms": progress.elapsed_ms,
        "current": progress.current,
        "spent_msats": progress.spent_msats,
        "bought": progress.bought,
        "max_msats": run.max_msats if run else None,
        "max_calls": run.max_calls if run else None,
        "runs_open": progress.runs_open,
        "calls_open": progress.calls_open,
        "planned_calls": list(progress.plan.calls) if progress.plan else None,
        "stages": [_stage(progress, name) for name in progress.shares],
        "lanes": [
            {
                "lane": name,
                "in_flight": round(progress.in_flight(name), 1),
                "bought": lane.bought,
                "replayed": lane.replayed,
                "failed": lane.failed,
                "msats": lane.msats,
            }
            for name, lane in progress.lanes.items()
        ],
        "leaderboard": [
            {
                "candidate": one.candidate_id,
                "score_ppm": one.score_ppm,
                "low_ppm": one.low_ppm,
                "high_ppm": one.high_ppm,
                "runs": one.count,
            }
            for one in progress.leaderboard[:MOST_CANDIDATES]
        ],
        "notes": list(progress.notes[-MOST_NOTES:]),
    }


def _stage(progress: Progress, name: Stage) -> JsonValue:
    stage = progress.stages.get(name)
    planned = (stage.planned if stage else None) or progress.planned_calls(name) or None
    if stage is None:
        return {"stage": name, "fraction": None, "ended": "", "note": "", "calls": 0, "trials": 0, "planned": planned}
    return {
        "stage": name,
        "fraction": round(progress.fraction(name), 4),
        "ended": stage.ended,
        "note": stage.note,
        "calls": stage.calls,
        "trials": stage.trials,
        "planned": planned,
    }


def _sent(kind: str | None, data: Mapping[str, JsonValue], event_id: str | None = None) -> bytes:
    """One server-sent event. JSON in ASCII has no line of its own to break out with, nor half a character."""
    lines = [f"event: {kind}\n" if kind else "", f"id: {event_id}\n" if event_id else ""]
    return f"{''.join(lines)}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
