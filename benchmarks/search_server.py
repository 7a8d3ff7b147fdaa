"""The hidden worlds behind HTTP: an OpenAI-compatible server in a process of its own, which counts.

    python benchmarks/search_server.py --port 0

It prints its port as its first line. The name of the model says which world answers, and how late
(`Door`): `additive-1.r0.s3.l50.t7` is the additive world number 1 under seed 3, 50 ms a call, the
seventh compile that this process serves. A repeated equal request below temperature .5 is answered
at once and not counted, as if the asker had a cache. A request's `seed` tells samples apart.
`GET /stats` tells by name: `calls`, `kinds`, `tokens` (of prompts), `said_tokens`, `msats`,
`in_flight_s` (integral of the counted calls in flight over time) and `in_flight_max`.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Self

import orjson

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.counting_server import Connection  # noqa: E402
from benchmarks.counting_world import text_of  # noqa: E402
from benchmarks.search_model import WARM, Model  # noqa: E402
from benchmarks.worlds import FAMILIES, World, changed  # noqa: E402

ROOMS_KEPT = 4
DOOR = re.compile(r"(\w+)-(\d+)\.r(\d+)\.s(\d+)\.l(\d+)\.t(\d+)")
TAGS = itertools.count(1)


@lru_cache(maxsize=64)
def world_of(family: str, number: int, correlation: int = 0) -> World:
    """A world, or with a correlation in thousandths what it became; see `worlds.py`."""
    world = World(family, number)
    return changed(world, correlation / 1_000) if correlation else world


@dataclass(frozen=True)
class Door:
    """One compile's own model: the world, the draw of the proposer, and the latency.

    Attributes:
        correlation: Of the changed world's weights with its own, in thousandths; 0 for the world itself.
        tag: Tells compiles of the same world apart.
    """

    family: str
    number: int
    seed: int
    correlation: int = 0
    latency_ms: int = 0
    tag: int = field(default_factory=lambda: next(TAGS))

    @property
    def name(self) -> str:
        """As the model's name."""
        return f"{self.family}-{self.number}.r{self.correlation}.s{self.seed}.l{self.latency_ms}.t{self.tag}"

    @classmethod
    def named(cls, name: str) -> Self | None:
        """The door of a name, if it is one."""
        found = DOOR.fullmatch(name)
        if found is None or found[1] not in FAMILIES:
            return None
        number, correlation, seed, latency_ms, tag = map(int, found.groups()[1:])
        return cls(found[1], number, seed, correlation, latency_ms, tag)

    @property
    def world(self) -> World:
        return world_of(self.family, self.number, self.correlation)

    def model(self) -> Model:
        """A model that was asked nothing yet."""
        return Model(self.world, self.seed)


class Room:
    """A model behind a door, and how many of its calls are in flight."""

    def __init__(self, door: Door) -> None:
        self.model = door.model()
        self.latency_s = door.latency_ms / 1_000
        self._in_flight = 0
        self._in_flight_max = 0
        self._in_flight_s = 0.0
        self._since_s = time.monotonic()

    def count(self, change: int) -> None:
        """A call came (1) or left (-1)."""
        now_s = time.monotonic()
        self._in_flight_s += self._in_flight * (now_s - self._since_s)
        self._since_s = now_s
        self._in_flight += change
        self._in_flight_max = max(self._in_flight_max, self._in_flight)

    def stats(self) -> dict:
        return {**self.model.counts(), "in_flight_s": self._in_flight_s, "in_flight_max": self._in_flight_max}


class House:
    """All rooms, the newest few; those that were left are forgotten with their answers."""

    def __init__(self) -> None:
        self.options = argparse.Namespace(retry_after_s=None)
        self._rooms: OrderedDict[str, Room] = OrderedDict()

    def room(self, name: str) -> Room | None:
        """The room behind a door of this name; nothing where the name is no door's."""
        if name not in self._rooms:
            door = Door.named(name)
            if door is None:
                return None
            self._rooms[name] = Room(door)
            if len(self._rooms) > ROOMS_KEPT:
                self._rooms.popitem(last=False)
        return self._rooms[name]

    def stats(self) -> dict[str, dict]:
        return {name: room.stats() for name, room in self._rooms.items()}


class WorldConnection(Connection):
    """HTTP as in `counting_server.py`, answered by the world that the request's model names."""

    def __init__(self, house: House) -> None:
        super().__init__(house)  # type: ignore[arg-type] - it asks for `stats` and `options` only
        self._house = house

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing hangs here that would have to be taken back."""

    def _complete(self, head: bytes, raw: bytes) -> None:  # noqa: ARG002 - the server's
        try:
            body = orjson.loads(raw)
            name, turns = body["model"], [(turn["role"], text_of(turn.get("content"))) for turn in body["messages"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._refuse(400, "`model` or `messages` are missing or malformed")
        room = self._house.room(name)
        if room is None:
            return self._refuse(404, f"the model {name!r} is no world's; see search_server.py")
        before = room.model.calls
        warm = (body.get("temperature") or 0) >= WARM
        text = room.model.answer(turns, warm=warm, sample=body.get("seed") or 0)
        payload = _payload(name, turns, text)
        if room.model.calls == before or not room.latency_s:
            return self._reply(200, payload)
        room.count(1)
        asyncio.get_running_loop().call_later(room.latency_s, self._late, room, payload)
        return None

    def _late(self, room: Room, payload: bytes) -> None:
        room.count(-1)
        self._reply(200, payload)


def _payload(name: str, messages: list[tuple[str, str]], text: str) -> bytes:
    asked, said = sum(len(content) for _, content in messages) // 4, len(text) // 4 + 1
    message = {"role": "assistant", "content": text}
    return orjson.dumps(
        {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "created": 0,
            "model": name,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
        }
    )


@dataclass(frozen=True)
class WorldServer:
    """A server that `launch` started."""

    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self, door: Door) -> dict:
        """What the compile behind a door was counted; their names stand in this file's docstring."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=30) as response:
            return json.load(response).get(door.name) or Room(door).stats()


@contextlib.contextmanager
def launch() -> Iterator[WorldServer]:
    """Run the server as a process of its own on a free loopback port; end it by its own process id."""
    command = [sys.executable, str(Path(__file__).resolve()), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield WorldServer(int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(10)


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    house = House()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: WorldConnection(house), "127.0.0.1", port, backlog=4_096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the port and serve, on uvloop where that is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 for a free one")
    asked = parser.parse_args()
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(serve(asked.port))


if __name__ == "__main__":
    main()
