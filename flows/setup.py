"""Make a Prefect server ready for compiles: block types, a work pool, crash recovery, the deployments."""

import asyncio
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import StateType, WorkPoolStatus
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

from blocks.identity import Identity
from blocks.ledger.block import LedgerDatabase
from blocks.relays import Relays
from blocks.sandboxes import SANDBOXES
from blocks.sinks.hud import Hud
from blocks.sinks.notes import NostrNotes
from blocks.sinks.telemetry import Telemetry
from blocks.stores import STORES
from blocks.venues import VENUES
from blocks.venues.swarm import Swarm
from blocks.wallets import WALLETS
from swarmc.contracts.errors import SwarmcError, boundary

BLOCK_TYPES: tuple[type[Block], ...] = (
    *VENUES.values(),
    Swarm,
    *WALLETS.values(),
    *STORES.values(),
    *SANDBOXES.values(),
    LedgerDatabase,
    Telemetry,
    Relays,
    Identity,
    NostrNotes,
    Hud,
)
WORK_POOL = "swarmc"
TAG = "swarmc"
DEPLOYMENT_FILE = "prefect.yaml"
MOST_REASON = 400

HEARTBEAT_FREQUENCY_S = 30
"""Prefect's least. At its default of 180 s a living run would seem dead to the recovery rules."""
RUN_ENV = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_FREQUENCY_S)}

OURS: tuple[dict[str, str | list[str]], ...] = (
    {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
    # A run that no deployment made has no worker to come back to.
    {"prefect.resource.role": "deployment"},
)
NEWS = frozenset(
    {"heartbeat", "Submitting", "Running", "Suspended", "Paused", "Cancelling"}
    | {"Completed", "Failed", "Crashed", "Cancelled", "Scheduled", "AwaitingRetry", "Late"}
)
"""What disarms a rule. A list, not a wildcard: a worker's note that it fetched the code says nothing of life.
Each rule's own event is in it too, so that a second one begins the wait anew."""


@dataclass(frozen=True)
class Recovery:
    """How long the recovery rules wait, in seconds, and when they give a run up.

    Attributes:
        silence_s: Without a heartbeat for so long, a running process counts as dead.
        settle_s: A crashed run is scheduled again when nothing was heard of it for so long. A worker reports a
            death twice, the second time after it loaded the flow anew for its hooks; by then the run must not have
            begun again, or the report would hit the new process. And a run that was only thought dead, because the
            server was away, gets time for a heartbeat, and no rival.
        start_s: A run that a worker took and has not begun after so long is given out again. Longer than the
            slowest start of a process.
        most_returns: A run that comes back so often within `returns_within_s` fails for good: something ends it
            each time, e.g. a module that does not import.
        returns_within_s: See `most_returns`.
    """

    silence_s: float = 3 * HEARTBEAT_FREQUENCY_S
    settle_s: float = 2 * HEARTBEAT_FREQUENCY_S
    start_s: float = 120
    most_returns: int = 5
    returns_within_s: float = 1200


async def setup(directory: Path | None = None, recovery: Recovery | None = None) -> list[str]:
    """Make the Prefect server at PREFECT_API_URL ready. Safe to repeat: what is right is left alone.

    Args:
        directory: Where `prefect.yaml` is looked for, and where deployed runs will work; the current one if not given.
        recovery: Times of the recovery rules.

    Returns:
        Sentences that say what was made, what was changed and what was there already.

    Raises:
        SwarmcError: no server is named, it cannot be reached, or `prefect.yaml` cannot be deployed.
    """
    url = get_current_settings().api.url
    if url is None:
        raise SwarmcError(
            "setup needs a Prefect server that stays, and PREFECT_API_URL names none; "
            "`make ui` starts one, then `export PREFECT_API_URL=http://127.0.0.1:4200/api` and repeat"
        )
    directory = directory or Path.cwd()
    with boundary(SwarmcError, f"setting up the Prefect server at {url.rpartition('@')[2]}"):
        async with get_client() as client:
            if unreachable := await client.api_healthcheck():
                raise SwarmcError(
                    f"the Prefect server at {url.rpartition('@')[2]} does not answer ({unreachable}); "
                    "start it (`make ui`), or correct PREFECT_API_URL"
                )
            said = [await _register(client, block) for block in BLOCK_TYPES]
            said.append(await _ensure_work_pool(client))
            said += [await _ensure_automation(client, wanted) for wanted in automations(recovery or Recovery())]
            said += await _deploy(client, directory, url)
            said += await _missing_worker(client)
    return said


def automations(recovery: Recovery) -> tuple[AutomationCore, ...]:
    """The rules that bring a killed run back, limited to runs of deployments with our tag."""
    return (
        _automation(
            "swarmc: a silent run has crashed",
            f"No heartbeat for {recovery.silence_s:.0f} s: its process is gone, and no worker saw it go.",
            _silence("heartbeat", recovery.silence_s),
            _change(StateType.CRASHED, "Crashed", "No heartbeat; its process is taken for dead."),
        ),
        _automation(
            "swarmc: a crashed run comes back",
            f"Nothing for {recovery.settle_s:.0f} s after a crash: the same run continues where it was.",
            _silence("Crashed", recovery.settle_s),
            _change(StateType.SCHEDULED, "AwaitingRetry", "Its process died; it continues where it was."),
        ),
        _automation(
            "swarmc: a run that never began comes back",
            f"Taken by a worker and not begun after {recovery.start_s:.0f} s: that worker is gone.",
            _silence("Submitting", recovery.start_s),
            _change(StateType.SCHEDULED, "AwaitingRetry", "It never began; it is given out again."),
        ),
        _automation(
            "swarmc: a run that keeps crashing is given up",
            f"It came back {recovery.most_returns} times within {recovery.returns_within_s:.0f} s.",
            _trigger(
                Posture.Reactive, {"AwaitingRetry"}, times=recovery.most_returns, within_s=recovery.returns_within_s
            ),
            _change(StateType.FAILED, "Failed", "It crashed again and again; read its log, then retry it by hand."),
        ),
    )


def _automation(name: str, description: str, trigger: EventTrigger, action: ChangeFlowRunState) -> AutomationCore:
    return AutomationCore(
        name=name, description=description, enabled=True, tags=[TAG], trigger=trigger, actions=[action]
    )


def _silence(after: str, within_s: float) -> EventTrigger:
    return _trigger(Posture.Proactive, NEWS, after={after}, within_s=within_s)


def _trigger(
    posture: Literal[Posture.Reactive, Posture.Proactive],
    expected: Iterable[str],
    *,
    within_s: float,
    after: Iterable[str] = (),
    times: int = 1,
) -> EventTrigger:
    # What is left to a default is left out of an update, the type too: so nothing is, here and in `_change`.
    return EventTrigger(
        type="event",
        posture=posture,
        match=ResourceSpecification(root={"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=[ResourceSpecification(root=labels) for labels in OURS],
        for_each={"prefect.resource.id"},
        after=_events(after),
        expect=_events(expected),
        threshold=times,
        within=timedelta(seconds=within_s),
    )


def _events(names: Iterable[str]) -> set[str]:
    return {f"prefect.flow-run.{name}" for name in names}


def _change(state: StateType, name: str, message: str) -> ChangeFlowRunState:
    return ChangeFlowRunState(type="change-flow-run-state", state=state, name=name, message=message, force=False)


async def _ensure_automation(client: PrefectClient, wanted: AutomationCore) -> str:
    found = await client.read_automations_by_name(wanted.name)
    if not found:
        await client.create_automation(wanted)
        return f"automation {wanted.name!r} was made"
    for spare in found[1:]:
        await client.delete_automation(spare.id)
    changed = _changed(found[0], wanted)
    if changed:
        await client.update_automation(found[0].id, wanted)
    said = f"was put right ({', '.join(changed)})" if changed else "was there already"
    removed = f"; {len(found) - 1} more of that name removed" if found[1:] else ""
    return f"automation {wanted.name!r} {said}{removed}"


def _changed(found: AutomationCore, wanted: AutomationCore) -> list[str]:
    """Names of the settings that are not as wanted."""
    there, here = (
        {**automation.model_dump(exclude={"id", "trigger", "owner_resource"}), **automation.trigger.model_dump()}
        for automation in (found, wanted)
    )
    return sorted(name for name in here if there.get(name) != here[name])


async def _register(client: PrefectClient, block: type[Block]) -> str:
    slug = block.get_block_type_slug()
    before = await _known_block(client, slug)
    await block.aregister_type_and_schema(client=client)
    if before is None:
        return f"block type {slug} was made"
    unchanged = before == await _known_block(client, slug)
    return f"block type {slug} was {'there already' if unchanged else 'brought up to date'}"


async def _known_block(client: PrefectClient, slug: str) -> tuple[object, ...] | None:
    """What the server knows of a block type: its texts and its newest schema."""
    try:
        found = await client.read_block_type_by_slug(slug)
    except ObjectNotFound:
        return None
    schema = await client.get_most_recent_block_schema_for_block_type(found.id)
    texts = (found.description, found.logo_url, found.documentation_url, found.code_example)
    return (*texts, schema and schema.id)


async def _ensure_work_pool(client: PrefectClient) -> str:
    try:
        pool = await client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        template["variables"]["properties"]["env"]["default"] = RUN_ENV
        await client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process", base_job_template=template))
        return f"work pool {WORK_POOL!r} (process) was made"
    return f"work pool {WORK_POOL!r} ({pool.type}) was there already"


async def _missing_worker(client: PrefectClient) -> list[str]:
    pool = await client.read_work_pool(WORK_POOL)
    if pool.status == WorkPoolStatus.READY:
        return []
    return [f"no worker serves the work pool now; start one: prefect worker start --pool {WORK_POOL}"]


async def _deploy(client: PrefectClient, directory: Path, url: str) -> list[str]:
    file = directory / DEPLOYMENT_FILE
    if not file.is_file():
        by_hand = f"prefect deploy flows.compile:compile_program --name default --pool {WORK_POOL} --tag {TAG}"
        return [f"{directory} has no {DEPLOYMENT_FILE}, so nothing was deployed; repeat where it is, or: {by_hand}"]
    before = await _deployments(client)
    await _run_deploy(directory, url)
    after = await _deployments(client)
    return [_deployed(name, before.get(name), after[name]) for name in sorted(after)]


def _deployed(name: str, was_active: set[str] | None, active: set[str]) -> str:
    if was_active is None:
        return f"deployment {name} was made"
    stopped = ", ".join(sorted(was_active - active))
    return f"deployment {name} was there already and is as the file says" + (
        f"; that switched off its schedule {stopped}" if stopped else ""
    )


async def _run_deploy(directory: Path, url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"),
        cwd=directory,
        # Wide, so that a reason stays on one line.
        env={**os.environ, "PREFECT_API_URL": url, "COLUMNS": "400", "NO_COLOR": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = (text.decode(errors="replace") for text in await process.communicate())
    if process.returncode:
        # A traceback ends with its reason; what Prefect finds itself is in its output, which may be a paragraph.
        reason = complaint.strip().rpartition("\n")[2] or " ".join(output.split())[-MOST_REASON:]
        raise SwarmcError(
            f"deploying {directory / DEPLOYMENT_FILE}: {reason}; correct the file, or what it names, and repeat"
        )


async def _deployments(client: PrefectClient) -> dict[str, set[str]]:
    """The deployments with our tag, as `flow/deployment`, and which of their schedules are on."""
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    found = await client.read_deployments(deployment_filter=ours)
    return {
        f"{(await client.read_flow(deployment.flow_id)).name}/{deployment.name}": {
            schedule.slug or str(schedule.id) for schedule in deployment.schedules if schedule.active
        }
        for deployment in found
    }
