"""The processes of the market benchmark: each is asked by a line on its input and answers with a line of JSON."""

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

Answering = Callable[[str], Awaitable[dict[str, Any]]]


class Child:
    """A process of ours, started with the flags that make it one."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        self.hello = self._answer()

    def ask(self, question: str = "usage") -> dict[str, Any]:
        """Its answer."""
        assert self._process.stdin is not None
        print(question, file=self._process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        """Close its input, which it takes for the end; else end it by its process id."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._command)} ended with {self._process.wait(5)}")
        return json.loads(line)


@contextlib.contextmanager
def started(*flags: str, **environment: str) -> Iterator[Child]:
    """`market.py` with these flags as a process of its own, from its first answer to its end."""
    script = Path(__file__).resolve().with_name("market.py")
    child = Child([sys.executable, str(script), *flags], environment)
    try:
        yield child
    finally:
        child.end()


async def obey(hello: dict[str, Any], answering: Answering) -> None:
    """Within a child: say hello, then answer until the input ends."""
    print(json.dumps(hello), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await answering(line.strip())), flush=True)


def usage() -> dict[str, Any]:
    """CPU seconds of this process, and of its threads by name where the system tells."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    clock_of = getattr(time, "pthread_getcpuclockid", None)  # macOS has none.
    threads: dict[str, float] = {}
    for thread in threading.enumerate() if clock_of else ():
        if thread.ident is not None and clock_of is not None:
            name = thread.name.split("_")[0]
            threads[name] = threads.get(name, 0.0) + time.clock_gettime(clock_of(thread.ident))
    return {"cpu_s": used.ru_utime + used.ru_stime, "threads": threads}
