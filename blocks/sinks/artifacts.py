"""The run's page in the Prefect UI: one progress artifact, kept up to date while the run goes on."""

from time import monotonic
from typing import final
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.context import FlowRunContext

from swarmc.contracts.events import Event, StageEnded, StageStarted
from swarmc.tracing.progress import Progress

UPDATE_EVERY_S = 2.0
KEY = "compile-progress"


@final
class ArtifactSink:
    """Folds events into a percentage and a sentence. Outside of a Prefect run it does nothing."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._artifact: UUID | None = None
        self._told_s = 0.0

    async def tell(self, event: Event) -> None:
        self._progress.add(event)
        turning = isinstance(event, StageStarted | StageEnded)
        if turning or monotonic() - self._told_s >= UPDATE_EVERY_S:
            await self._update()

    async def aclose(self) -> None:
        await self._update()

    async def _update(self) -> None:
        if FlowRunContext.get() is None:
            return
        self._told_s = monotonic()
        percent, sentence = round(self._progress.percent, 1), self._progress.sentence
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(percent, key=KEY, description=sentence)
        else:
            await aupdate_progress_artifact(self._artifact, progress=percent, description=sentence)
