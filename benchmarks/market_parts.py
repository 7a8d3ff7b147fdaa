"""Where the time of a process's main thread goes, by part: samples of its stack at ticks of its CPU clock.

A sample counts for the innermost frame that is of a part, so library code is billed to whoever called it, and weighs
what the thread itself used since the last one: the clock that ticks is that of all threads. Sampling adds little to
what it measures, unlike a tracing profiler, which makes Python dearer than C.
"""

import signal
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

ROOT = str(Path(__file__).resolve().parent.parent)
SITE = "site-packages"
TICK_S = 0.001
DEAREST = 30

FUNCTIONS = {
    ("swarmc/nostr/keys.py", "sign"): "sign",
    ("swarmc/nostr/keys.py", "is_signed"): "verify",
    ("swarmc/nostr/keys.py", "_point"): "verify",
    ("swarmc/nostr/keys.py", "shared_x"): "encrypt",
    ("swarmc/nostr/events.py", "_fault"): "verify",
    ("swarmc/nostr/events.py", "sign_notes"): "sign",
}
FILES = {
    "swarmc/nostr/keys.py": "names of keys",
    "swarmc/nostr/nip44.py": "encrypt",
    "swarmc/nostr/nip04.py": "encrypt",
    "swarmc/nostr/encryption.py": "encrypt",
    "swarmc/nostr/plaintext.py": "encrypt",
    "swarmc/nostr/invoices.py": "invoice",
    "swarmc/nostr/events.py": "parse",
    "swarmc/nostr/messages.py": "parse",
    "swarmc/nostr/nip90.py": "parse",
    "swarmc/nostr/generation.py": "parse",
    "swarmc/nostr/": "decide",
    "swarmc/tracing/": "redact",
    "swarmc/contracts/": "contracts",
    "swarmc/compiler/": "meter",
    "blocks/wallets/": "wallet",
    "blocks/ledger/job": "book",
    "blocks/ledger/": "ledger and book",
    "blocks/relays/": "relays",
    "blocks/venues/swarm_offers.py": "decide",
    "blocks/venues/swarm": "desk",
    "blocks/venues/": "model",
    "tasks/": "steps",
    "flows/": "steps",
    "benchmarks/": "benchmark",
}
LIBRARIES = {"/websockets/": "sockets", "/aiohttp/": "model", "/asyncio/": "loop", "/selectors.py": "loop"}


class Sampler:
    """Counts where the main thread is, tick by tick. `start` and `stop` on the main thread."""

    def __init__(self) -> None:
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._functions: defaultdict[str, float] = defaultdict(float)
        self._used_s = 0.0
        self._known: dict[tuple[str, str], tuple[str | None, str]] = {}

    def start(self) -> None:
        self._parts.clear()
        self._functions.clear()
        self._used_s = time.thread_time()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, TICK_S, TICK_S)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def shares(self) -> dict[str, dict[str, float]]:
        """Shares of the samples by part, and of the functions of ours that hold most of them."""
        whole = sum(self._parts.values()) or 1.0
        parts, functions = (
            sorted(found.items(), key=lambda item: -item[1]) for found in (self._parts, self._functions)
        )
        return {
            "parts": {part: used_s / whole for part, used_s in parts},
            "functions": {name: used_s / whole for name, used_s in functions[:DEAREST]},
        }

    def _sample(self, _: int, frame: FrameType | None) -> None:
        before_s, self._used_s = self._used_s, time.thread_time()
        used_s = self._used_s - before_s
        while frame is not None:
            part, name = self._place(frame)
            if part is not None:
                self._parts[part] += used_s
                self._functions[name] += used_s
                return
            frame = frame.f_back
        self._parts["other"] += used_s

    def _place(self, frame: FrameType) -> tuple[str | None, str]:
        key = (frame.f_code.co_filename, frame.f_code.co_name)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = (_part(*key), _name(*key))
        return found


def _part(path: str, function: str) -> str | None:
    if path.startswith(ROOT) and SITE not in path:
        place = path[len(ROOT) + 1 :]
        named = FUNCTIONS.get((place, function))
        return named or next((part for start, part in FILES.items() if place.startswith(start)), "other")
    return next((part for word, part in LIBRARIES.items() if word in path), None)


def _name(path: str, function: str) -> str:
    place = path[len(ROOT) + 1 :] if path.startswith(ROOT) else "/".join(path.split("/")[-2:])
    return f"{place} {function}"
