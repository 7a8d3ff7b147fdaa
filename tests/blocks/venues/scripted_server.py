"""A small HTTP server that answers as a test says, byte for byte, and keeps what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Said:
    """An answer. `status` 0 breaks the connection off after the head was read."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def wire(self) -> bytes:
        payload = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        lines = [f"HTTP/1.1 {self.status} X", f"content-length: {len(payload)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + payload


@dataclass
class Scripted:
    """A server under way: its address, and every request that came."""

    url: str
    asked: list[Asked] = field(default_factory=list)


@asynccontextmanager
async def scripted(answer: Callable[[Asked], Said]) -> AsyncIterator[Scripted]:
    """Serve on a free loopback port while the context is open."""
    server = Scripted("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = await _read(reader)
                server.asked.append(asked)
                said = answer(asked)
                if said.status == 0:
                    break
                writer.write(said.wire())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    data = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split(" ")
    return Asked(method, path, headers, json.loads(data) if data else None)


def ollama(models: tuple[str, ...] = ("tiny:latest",)) -> Callable[[Asked], Said]:
    """Answers as Ollama's API documentation says an Ollama with these models would."""

    def answer(asked: Asked) -> Said:
        if asked.path == "/api/tags":
            return Said({"models": [{"name": name, "model": name, "size": 1} for name in models]})
        name = asked.body["model"]
        if name not in models:
            return Said({"error": f"model '{name}' not found"}, status=404)
        message: dict[str, Any] = {"role": "assistant", "content": "forty-two"}
        if asked.body.get("tools"):
            call = {"name": asked.body["tools"][0]["function"]["name"], "arguments": {"city": "Oslo", "days": 2}}
            message = {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}
        counts = {"total_duration": 1, "prompt_eval_count": 11, "eval_count": 3}
        return Said({"model": name, "message": message, "done_reason": "stop", "done": True, **counts})

    return answer
