"""The run's page in Prefect: one progress, one leaderboard, both of the last event."""

import asyncio
import json
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact

from blocks.sinks.artifacts import BOARD_KEY, BOARD_ROWS, KEY, ArtifactSink, leaderboard_rows, leaderboard_sentence
from swarmc.compiler.intervals import mean_score
from swarmc.contracts.canonical import content_id
from swarmc.contracts.events import Event, StageEnded, StageStarted, TrialScored
from swarmc.tracing.progress import Progress
from swarmc.tracing.stream import open_stream

AT: dict[str, Any] = {"run_id": "r", "at_ms": 0}
OURS = ArtifactFilterKey(any_=[KEY])


def candidate(number: int) -> str:
    return content_id(str(number).encode())


def trial(number: int, score_ppm: int, count: int = 10) -> TrialScored:
    told = {"trial": number, "candidate_id": candidate(number), "score_ppm": score_ppm, "count": count}
    return TrialScored(**AT, stage="search", best_ppm=score_ppm, **told)


def board(*events: Event) -> Any:
    progress = Progress()
    for event in events:
        progress.add(event)
    return progress.leaderboard


def test_a_row_has_short_cells_and_the_interval_that_reports_give() -> None:
    row = leaderboard_rows(board(trial(1, 900_000)))[0]
    wilson = mean_score([1_000_000] * 9 + [0])
    assert row["candidate"] == candidate(1)[7:19]
    assert f"{row['score']} [{str(row['95 % interval']).replace(' - ', ', ')}] (n={row['runs']})" == str(wilson)
    assert all(len(str(cell)) <= 20 for cell in row.values())


def test_few_lucky_runs_do_not_lead() -> None:
    rows = leaderboard_rows(board(trial(1, 1_000_000, count=1), trial(2, 900_000, count=200)))
    assert [row["candidate"] for row in rows] == [candidate(2)[7:19], candidate(1)[7:19]]


def test_a_long_leaderboard_is_cut_and_says_so() -> None:
    long = board(*(trial(number, 500_000 + number) for number in range(BOARD_ROWS + 5)))
    assert len(leaderboard_rows(long)) == BOARD_ROWS
    assert f"the best {BOARD_ROWS} of {BOARD_ROWS + 5}" in leaderboard_sentence(long)


async def test_outside_of_a_prefect_run_it_does_nothing() -> None:
    sink = ArtifactSink()
    await sink.tell(StageStarted(**AT, stage="search"))
    await sink.tell(trial(1, 900_000))
    await sink.aclose()


@flow
async def shown(trials: int) -> None:
    sink = ArtifactSink()
    await sink.tell(StageStarted(**AT, stage="search"))
    for number in range(trials):
        await sink.tell(trial(number, 100_000 * (number + 1)))
    await sink.tell(StageEnded(**AT, stage="search", ended="completed"))
    await sink.aclose()


async def kept(key: str) -> list[Artifact]:
    async with get_client() as client:
        return await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


@pytest.mark.slow
async def test_a_run_has_one_progress_and_one_leaderboard_however_often_they_change(on_server: str) -> None:
    await shown(trials=5)
    (table,) = await kept(BOARD_KEY)
    rows = json.loads(str(table.data))
    assert [row["candidate"] for row in rows] == [candidate(number)[7:19] for number in (4, 3, 2, 1, 0)]
    (progress,) = await kept(KEY)
    assert progress.data == 65.0


@flow
async def robbed() -> dict[str, int]:
    """What is lost of a run whose page somebody clears while it goes on."""
    async with open_stream((ArtifactSink(),)) as stream:
        stream.emit(StageStarted(**AT, stage="search"))
        async with get_client() as client, asyncio.timeout(20):
            while not (there := await client.read_artifacts(artifact_filter=ArtifactFilter(key=OURS))):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            for artifact in there:
                await client.delete_artifact(artifact.id)
        stream.emit(StageEnded(**AT, stage="search", ended="completed"))
    return dict(stream.lost)


@pytest.mark.slow
async def test_a_page_that_was_cleared_is_counted_and_stops_nothing(on_server: str) -> None:
    async with get_client() as client:
        for artifact in await kept(KEY):
            await client.delete_artifact(artifact.id)
    assert await robbed() == {"ArtifactSink": 1}
