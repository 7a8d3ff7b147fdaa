"""The one door from synchronous code (a DSPy program with only `forward`) to the asynchronous venues."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from swarmc.contracts.errors import ProgramError

T = TypeVar("T")


class Portal:
    """Runs coroutines on one home loop, whoever asks: sessions and locks of venues live there.

    Args:
        home: The loop to use; by default the loop that is running now.

    Raises:
        RuntimeError: no loop is running and none was given.
    """

    def __init__(self, home: asyncio.AbstractEventLoop | None = None) -> None:
        self._home = home or asyncio.get_running_loop()
        self._home_thread = threading.get_ident() if home is None else None

    def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Block this thread until the home loop has the answer.

        Raises:
            ProgramError: called on the home loop's own thread, which would wait for itself for ever.
        """
        if threading.get_ident() == self._home_thread:
            raise ProgramError(
                "the program calls a predictor synchronously inside its `aforward`; "
                "await its `acall` there, or leave `aforward` out so that `forward` is run in a thread"
            )
        return asyncio.run_coroutine_threadsafe(_await(ask), self._home).result()

    async def acall(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Await the answer from any loop."""
        if asyncio.get_running_loop() is self._home:
            return await ask()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_await(ask), self._home))


async def _await(ask: Callable[[], Awaitable[T]]) -> T:
    return await ask()
