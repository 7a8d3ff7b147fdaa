"""The run's page in the Prefect UI: a progress artifact and a leaderboard, kept up to date while the run goes on."""

import json
from time import monotonic
from typing import final
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.context import FlowRunContext

from swarmc.contracts.canonical import PPM
from swarmc.contracts.events import Event, StageEnded, StageStarted, TrialScored
from swarmc.tracing.progress import CandidateProgress, Progress

UPDATE_EVERY_S = 2.0
KEY = "compile-progress"
BOARD_EVERY_S = 5.0
BOARD_KEY = "compile-leaderboard"
BOARD_ROWS = 20
ID_LETTERS = 12
"""Of a candidate's hash; a table's long cells push its others off the page."""

Cell = str | int


@final
class ArtifactSink:
    """Folds events into a percentage, a sentence and a table. Outside of a Prefect run it does nothing."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._artifact: UUID | None = None
        self._told_s = 0.0
        self._board: UUID | None = None
        self._board_s = 0.0
        self._board_old = False

    async def tell(self, event: Event) -> None:
        self._progress.add(event)
        self._board_old = self._board_old or isinstance(event, TrialScored)
        turning = isinstance(event, StageStarted | StageEnded)
        if turning or monotonic() - self._told_s >= UPDATE_EVERY_S:
            await self._update()
        if self._board_old and (turning or monotonic() - self._board_s >= BOARD_EVERY_S):
            await self._update_board()

    async def aclose(self) -> None:
        await self._update()
        if self._board_old:
            await self._update_board()

    async def _update(self) -> None:
        if FlowRunContext.get() is None:
            return
        self._told_s = monotonic()
        percent, sentence = round(self._progress.percent, 1), self._progress.sentence
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(percent, key=KEY, description=sentence)
        else:
            await aupdate_progress_artifact(self._artifact, progress=percent, description=sentence)

    async def _update_board(self) -> None:
        if FlowRunContext.get() is None:
            return
        self._board_s = monotonic()
        board = self._progress.leaderboard
        rows, sentence = leaderboard_rows(board), leaderboard_sentence(board)
        if self._board is None:
            self._board = await acreate_table_artifact(rows, key=BOARD_KEY, description=sentence)
        else:
            # The same artifact again: a new one of the key every few seconds would be a version each.
            async with get_client() as client:
                update = ArtifactUpdate(data=json.dumps(rows), description=sentence)
                await client.update_artifact(artifact_id=self._board, artifact=update)
        self._board_old = False


def leaderboard_rows(board: list[CandidateProgress]) -> list[dict[str, Cell]]:
    """The best candidates as rows of short cells. Scores have three digits, so that rows can be sorted as text."""
    return [
        {
            "place": place,
            "candidate": one.candidate_id.removeprefix("sha256:")[:ID_LETTERS],
            "score": f"{one.score_ppm / PPM:.3f}",
            "95 % interval": f"{one.low_ppm / PPM:.3f} - {one.high_ppm / PPM:.3f}",
            "runs": one.count,
        }
        for place, one in enumerate(board[:BOARD_ROWS], start=1)
    ]


def leaderboard_sentence(board: list[CandidateProgress]) -> str:
    """What the table is."""
    shown = f"the best {BOARD_ROWS} of {len(board)}" if len(board) > BOARD_ROWS else f"{len(board)}"
    return (
        f"Candidates of the search ({shown}), by the lower end of their 95 % interval. These are scores on search "
        "examples; what the winner is worth is measured on others."
    )
