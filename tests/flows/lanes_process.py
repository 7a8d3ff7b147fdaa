"""A compile over several lanes, made to be run in a process of its own that is killed.

Every answer that a lane gives is written down, with its price, before it is handed over: an account of its own, which
the ledger's is held to. Prices are up to a third below what was quoted, as a venue's are.
"""

import asyncio
import os
from pathlib import Path

from swarmc.contracts.completions import Completion, CompletionRequest, Lane
from tests.fakes import Answer, AnsweringVenue
from tests.voices import PRICES, Divided, Voices, compiled, draw, lanes_spec, right

LATENCY_S = 0.004


class Written(AnsweringVenue):
    """A priced lane whose answers are written down."""

    def __init__(self, lane: Lane, answer: Answer, log: Path) -> None:
        super().__init__(answer, price_msats=PRICES[lane], latency_s=LATENCY_S)
        self._lane = lane
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def complete(self, request: CompletionRequest) -> Completion:
        completion = await super().complete(request)
        msats = PRICES[self._lane] - draw("price", request.body) * PRICES[self._lane] // 768
        os.write(self._log, f"{self._lane} {msats} {request.request_id}\n".encode())
        return completion.model_copy(update={"usage": completion.usage.model_copy(update={"cost_msats": msats})})


def compile_in(folder: Path, caps: dict[str, int]) -> None:
    """Compile, or go on compiling; the winner's id is left in FOLDER/winner."""
    log = folder / "answers.log"
    venues: dict[Lane, AnsweringVenue] = {
        "swarm": Written("swarm", Voices()._say, log),
        "validation": Written("validation", Divided()._say, log),
        "premium": Written("premium", right, log),
    }
    budget = {"lanes": {lane: {"max_msats": msats} for lane, msats in caps.items()}}
    done = asyncio.run(compiled(folder, lanes_spec(folder, "validation", "premium", budget=budget), venues))
    (folder / "winner").write_text(str(done.recorded.manifest.compiled_id))
