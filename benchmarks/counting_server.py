"""An OpenAI-compatible model server that counts: what it was asked, how often, and what it answered.

    python benchmarks/counting_server.py --port 0 --latency-ms 50 [--jitter] [--log FILE]
        [--error-rate 0.2 --error-status 503 --retry-after-s 1] [--hang-rate 0.1] [--drop-rate 0.1]
        [--garbage-rate 0.1] [--api-key KEY] [--no-usage]

It prints its port as its first line, serves `POST /v1/chat/completions` and `GET /v1/models`, and
tells at `GET /stats`: `requests` (all that came), `total` (completions given), `unique` and
`repeated` (of `total`, by the hash of the body), `errors`, `garbage`, `hung`, `dropped`,
`in_flight`, `in_flight_max`, `prompt_tokens`, `completion_tokens`. A completion counts when its
work is done, whether its asker still listens or not: that is what a provider bills. With `--log`
every completion also appends a line (`sha256 of the body`, Unix ms) that survives this process.

Whether a request fails is drawn from the hash of its body and how often it came, so the same
workload fails in the same places and a second try has a new chance.

Given `tools` and `tool_choice: required`, it calls the first tool; else it answers as the model of
`counting_world.py`, where what an instruction and demonstrations are worth is written down.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import orjson

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.counting_world import answer, text_of, unit  # noqa: E402

LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
BEARER = re.compile(rb"(?i)\r\nauthorization: *bearer +(\S+)")
MOST_HEAD_BYTES = 65_536


class Model:
    """The counts, and the answer to one body."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.asked: Counter[bytes] = Counter()
        self.given: Counter[bytes] = Counter()
        names = "errors garbage hung dropped in_flight in_flight_max prompt_tokens completion_tokens"
        self.counts: dict[str, int] = dict.fromkeys(names.split(), 0)
        self._log = os.open(options.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if options.log else None

    def stats(self) -> dict[str, int]:
        total, unique = self.given.total(), len(self.given)
        return {
            "requests": self.asked.total(),
            "total": total,
            "unique": unique,
            "repeated": total - unique,
            **self.counts,
        }

    def fate(self, key: bytes) -> str:
        """`errors`, `hung`, `dropped`, `garbage` or `total`, drawn for this body's n-th coming."""
        self.asked[key] += 1
        draw = unit(key, str(self.asked[key]))
        for name in ("error", "hang", "drop", "garbage"):
            rate = getattr(self.options, f"{name}_rate")
            if draw < rate:
                return {"error": "errors", "hang": "hung", "drop": "dropped", "garbage": "garbage"}[name]
            draw -= rate
        return "total"

    def latency_s(self, key: bytes) -> float:
        """The same for every call, or log-normal with that median (and a tail of some four times)."""
        seconds = self.options.latency_ms / 1_000
        if not self.options.jitter:
            return seconds
        draw = min(max(unit(key, "latency", str(self.asked[key])), 1e-6), 1 - 1e-6)
        return seconds * math.exp(NormalDist(0, 0.6).inv_cdf(draw))

    def complete(self, body: dict, key: bytes) -> bytes:
        """The response for `body`; counted, and logged where that was asked for."""
        message: dict = {"role": "assistant", "content": ""}
        if body.get("tools") and body.get("tool_choice") == "required":
            call = {"name": body["tools"][0]["function"]["name"], "arguments": "{}"}
            message["tool_calls"] = [{"id": f"call-{key.hex()[:8]}", "type": "function", "function": call}]
        else:
            message["content"] = answer(body["messages"], body.get("seed"))
        asked = sum(len(text_of(turn.get("content"))) for turn in body["messages"]) // 4 + 1
        said = len(message["content"]) // 4 + 1
        self.given[key] += 1
        self.counts["prompt_tokens"] += asked
        self.counts["completion_tokens"] += said
        if self._log is not None:
            os.write(self._log, f"{key.hex()} {time.time_ns() // 1_000_000}\n".encode())
        finish = "tool_calls" if "tool_calls" in message else "stop"
        response = {
            "id": f"chatcmpl-{key.hex()[:16]}",
            "object": "chat.completion",
            "created": 0,
            "model": body.get("model", "counting"),
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        }
        if not self.options.no_usage:
            response["usage"] = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
        return orjson.dumps(response)


class Connection(asyncio.Protocol):
    """One client, HTTP/1.1 with keep-alive and `Content-Length` bodies: little code, so that it costs little CPU."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._buffer = b""
        self._hanging = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._model.counts["in_flight"] -= self._hanging

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            found = LENGTH.search(head)
            total = end + 4 + (int(found[1]) if found else 0)
            if len(self._buffer) < total:
                return
            body, self._buffer = self._buffer[end + 4 : total], self._buffer[total:]
            self._serve(head, body)
        if len(self._buffer) > MOST_HEAD_BYTES and b"\r\n\r\n" not in self._buffer:
            self._transport.close()

    def _serve(self, head: bytes, body: bytes) -> None:
        method, path = head.split(b" ", 2)[:2]
        match method, path.partition(b"?")[0]:
            case b"GET", b"/stats":
                self._reply(200, orjson.dumps(self._model.stats()))
            case b"GET", b"/v1/models":
                self._reply(200, b'{"object":"list","data":[{"id":"counting","object":"model"}]}')
            case b"GET", b"/health":
                self._reply(200, b'{"status":"ok"}')
            case b"POST", b"/v1/chat/completions":
                self._complete(head, body)
            case _:
                self._refuse(404, f"no {method.decode()} {path.decode()} here")

    def _complete(self, head: bytes, raw: bytes) -> None:
        found = BEARER.search(head)
        key = self._model.options.api_key
        if key and (not found or found[1].decode() != key):
            return self._refuse(401, f"wrong API key {found[1].decode() if found else ''}")
        try:
            body = orjson.loads(raw)
            assert body["messages"][0]["role"]
        except (ValueError, KeyError, IndexError, TypeError, AssertionError):
            return self._refuse(400, "`messages` is missing or malformed")
        counts: dict[str, int] = self._model.counts
        digest = hashlib.sha256(raw).digest()
        fate = self._model.fate(digest)
        counts["in_flight"] += 1
        counts["in_flight_max"] = max(counts["in_flight_max"], counts["in_flight"])
        if fate != "total":
            counts[fate] += 1
        if fate == "hung":
            self._hanging += 1
            return None
        wait_s = self._model.latency_s(digest)
        if wait_s <= 0:
            return self._end(fate, body, digest)
        asyncio.get_running_loop().call_later(wait_s, self._end, fate, body, digest)
        return None

    def _end(self, fate: str, body: dict, digest: bytes) -> None:
        self._model.counts["in_flight"] -= 1
        if fate == "total":
            self._reply(200, self._model.complete(body, digest))
        elif fate == "errors":
            self._refuse(self._model.options.error_status, "drawn to fail")
        elif fate == "garbage":
            self._reply(200, b"<html>gateway says hello</html>")
        else:
            self._transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        self._reply(status, orjson.dumps({"error": {"message": message, "type": "error", "code": status}}))

    def _reply(self, status: int, payload: bytes) -> None:
        extra = ""
        if status != 200 and self._model.options.retry_after_s is not None:
            extra = f"retry-after: {self._model.options.retry_after_s:g}\r\n"
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{extra}content-length: {len(payload)}\r\n\r\n"
        if not self._transport.is_closing():
            self._transport.write(head.encode() + payload)


@dataclass(frozen=True)
class CountingServer:
    """A server that `launch` started."""

    port: int
    pid: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, int]:
        """The counts; their names stand in this file's docstring."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=10) as response:
            return json.load(response)


@contextlib.contextmanager
def launch(*flags: str) -> Iterator[CountingServer]:
    """Run the server as a process of its own on a free loopback port; end it by its own process id."""
    command = [sys.executable, str(Path(__file__).resolve()), "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield CountingServer(int(process.stdout.readline()), process.pid)
    finally:
        process.terminate()
        process.wait(10)


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    model = Model(options)
    server = await loop.create_server(lambda: Connection(model), "127.0.0.1", options.port, backlog=4_096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 for a free one")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--jitter", action="store_true", help="log-normal latencies instead of a constant")
    for name in ("error", "hang", "drop", "garbage"):
        parser.add_argument(f"--{name}-rate", type=float, default=0.0, help="share of requests, 0 to 1")
    parser.add_argument("--error-status", type=int, default=503)
    parser.add_argument("--retry-after-s", type=float, help="sent with every error")
    parser.add_argument("--api-key", help="refuse requests without it")
    parser.add_argument("--no-usage", action="store_true", help="give no token counts")
    parser.add_argument("--log", help="file to append a line to for every completion")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
