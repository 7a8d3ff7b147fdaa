"""A process that tells a span file of one program run after another until it is killed."""

import asyncio
import sys
from pathlib import Path

from blocks.sinks.otel import OtelSink
from blocks.sinks.span_file import SpanFile
from swarmc.tracing.live import LiveSpans
from tests.tracing.program_runs import two_steps


async def write(path: Path) -> None:
    sink = OtelSink(LiveSpans(include_content=True), [SpanFile(path)])
    for program in range(10**6):
        for event in two_steps(program):
            await sink.tell(event)
        if program % 50 == 0:
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1])))
