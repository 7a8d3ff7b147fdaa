"""How long a relay that failed is left alone: longer each time, never in step with others, shorter when one waits."""

import asyncio
import random
from contextlib import suppress


class BackOff:
    """Of one relay.

    Args:
        first_s: The first pause; every one after it is twice as long.
        longest_s: The last of them.
        hurried_s: No more than this passes while somebody waits, except with a relay that floods us.
        flood_s: The least pause after a flood.
    """

    def __init__(
        self, *, first_s: float = 0.25, longest_s: float = 60.0, hurried_s: float = 2.0, flood_s: float = 5.0
    ) -> None:
        self.longest_s = longest_s
        self._first_s = first_s
        self._hurried_s = hurried_s
        self._flood_s = flood_s
        self._next_s = first_s
        self._flooded = False
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """Somebody waits: do not sit out a long pause."""
        self._hurry.set()

    def worked(self) -> None:
        """The relay did what it is for: the next failure is a first one."""
        self._next_s = self._first_s

    def flooded(self) -> None:
        """It did more than that: nobody's hurry shortens the next pause."""
        self._flooded = True
        self._next_s = max(self._next_s, self._flood_s)

    async def rest(self, *, waited_for: bool) -> None:
        """Sit out the pause.

        Args:
            waited_for: Whether somebody has been waiting since before the failure.
        """
        pause_s = self._next_s * (0.5 + random.random())
        self._next_s = min(2 * self._next_s, self.longest_s)
        if not waited_for:
            self._hurry.clear()
        least_s = pause_s if self._flooded else min(pause_s, self._hurried_s)
        self._flooded = False
        await asyncio.sleep(least_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s - least_s):
                await self._hurry.wait()
