"""Awaiting several things of which none is left behind."""

import asyncio
from typing import Any


async def gather_or_cancel(awaitables: Any) -> list[Any]:
    """`asyncio.gather`, but the first error cancels the others and is raised bare once they have stopped."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
