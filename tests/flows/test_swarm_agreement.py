"""Five providers on a real relay answer for the finalists, and one of them lies: it is named, and moves little."""

import asyncio
from pathlib import Path

import pytest

from swarmc.contracts.completions import CompletionRequest
from swarmc.contracts.relay import NostrEvent
from swarmc.nostr.generation import completion_request_of
from swarmc.nostr.keys import npub_of
from tests.fakes import AnsweringVenue
from tests.market import Script, Stranger, open_market
from tests.nostr.relays import real_relay
from tests.voices import FIVE, LABEL, LIES, PRICES, Compiled, Voices, compiled, draw, knows, lanes_spec, right

MODEL = "validation"


def saying(lie: str) -> Script:
    """A free provider that answers as the voices do, or lies."""

    async def script(stranger: Stranger, request: NostrEvent) -> None:
        asked = completion_request_of(stranger.job(request), lane="validation", models=(MODEL,))
        text = f"[[ ## answer ## ]]\n{_answer(asked, lie)}\n\n[[ ## completed ## ]]"
        await stranger.answer(request, text)

    return script


def _answer(asked: CompletionRequest, lie: str) -> str:
    if not lie:
        return knows(asked, 150)
    question = asked.messages[-1].content
    return LIES[lie](question[:60], LABEL.findall(question)[-1], draw(question))


async def compile_on(folder: Path, lie: str) -> tuple[Compiled, str]:
    """A compile whose validation lane is bought from five providers, and the npub of the first."""
    async with real_relay() as url, open_market(url, folder) as market:
        strangers = [await market.stranger(saying(lie if not n else ""), announce=False) for n in range(FIVE)]
        for stranger in strangers:
            await stranger.announce(models=(MODEL,), prices=None)
        venues = {
            "swarm": Voices(price_msats=PRICES["swarm"]),
            "validation": await market.venue(model=MODEL, timeout_s=20.0),
            "premium": AnsweringVenue(right, price_msats=PRICES["premium"]),
        }
        spec = lanes_spec(folder, "validation", "premium")
        return await compiled(folder, spec, venues), npub_of(strangers[0].key.pubkey)[:16]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The compile as it is when nobody lies."""
    return asyncio.run(compile_on(tmp_path_factory.mktemp("honest"), ""))[0]


@pytest.mark.parametrize("lie", LIES)
async def test_a_liar_on_the_market_is_named_and_moves_the_truth_less_than_its_interval(
    honest: Compiled, tmp_path: Path, lie: str
) -> None:
    lying, liar = await compile_on(tmp_path, lie)
    one, other = (done.recorded.manifest.scorecard.truth_score for done in (honest, lying))
    assert one is not None
    assert other is not None
    assert abs(one.mean_ppm - other.mean_ppm) < (one.high_ppm - one.low_ppm) // 2
    assert liar in str(lying.recorded.manifest.details["dissent"])
    assert liar in lying.report
    assert "dissent" not in honest.recorded.manifest.details
