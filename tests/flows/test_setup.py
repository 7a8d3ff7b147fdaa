"""`setup` against a real Prefect server: what it makes, puts right, refuses, and what its rules do to runs."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, WorkPoolStatus
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import AwaitingRetry, Crashed, Pending, Running, Scheduled
from prefect.utilities.importtools import import_object
from pydantic import SecretStr

from blocks.ledger.block import LedgerDatabase
from blocks.stores import S3Store
from flows.setup import BLOCK_TYPES, RUN_ENV, TAG, WORK_POOL, Recovery, automations, setup
from swarmc.contracts.errors import SwarmcError
from swarmc.contracts.spec import CompileSpec

pytestmark = pytest.mark.xdist_group("prefect, a third server")

REPOSITORY = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
ASKED_OF_A_PERSON = {"flows.fulfil:fulfil_job": {"job_id": "0" * 64}}
"""What a form asks for and no deployment can know."""
SECRET_NAMES = re.compile(r"secret|password|token$|api_key")
QUICK = Recovery(silence_s=10, settle_s=10, start_s=10, most_returns=3, returns_within_s=60)
"""Ten seconds are the least that Prefect waits for what does not come."""


@pytest.fixture(scope="module")
def deployed(prefect_api_url: str, prefect_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """After `setup`, `prefect.yaml` deployed by Prefect's own command with no way to anything but the server."""
    with temporary_settings({PREFECT_API_URL: prefect_api_url, PREFECT_HOME: prefect_env["PREFECT_HOME"]}):
        asyncio.run(setup(tmp_path_factory.mktemp("without_deployments")))
    offline = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    subprocess.run(command, cwd=REPOSITORY, env=prefect_env | offline, check=True, capture_output=True)


@pytest.mark.slow
async def test_setup_again_leaves_one_of_each_and_says_so(deployed: None, on_server: str) -> None:
    async with get_client() as client:
        deployment = await client.read_deployment_by_name("compile-program/default")
        (nightly,) = deployment.schedules
        assert (nightly.active, nightly.slug) == (False, "nightly")
        await client.update_deployment_schedule(deployment.id, nightly.id, active=True)
        sentences = await setup(REPOSITORY)
        said = [sentence for sentence in sentences if "prefect worker start" not in sentence]
        for wanted in automations(Recovery()):
            assert len(await client.read_automations_by_name(wanted.name)) == 1
        for block in BLOCK_TYPES:
            found = await client.read_block_type_by_slug(block.get_block_type_slug())
            assert await client.get_most_recent_block_schema_for_block_type(found.id)
        pool = await client.read_work_pool(WORK_POOL)
        assert pool.type == "process"
    # A worker that another test started counts as there for a while after its end.
    assert (len(sentences) > len(said)) == (pool.status != WorkPoolStatus.READY)
    assert len(said) == len(BLOCK_TYPES) + 1 + len(automations(Recovery())) + len(DEPLOYMENTS)
    assert [sentence for sentence in said if "was there already" not in sentence] == []
    assert [sentence for sentence in said if sentence.endswith("that switched off its schedule nightly")]


async def test_every_field_of_the_deployed_form_says_what_it_is_for(deployed: None, on_server: str) -> None:
    async with get_client() as client:
        schema = (await client.read_deployment_by_name("compile-program/default")).parameter_openapi_schema
    assert schema is not None
    forms = {"": schema, **schema["definitions"]}
    silent = {
        f"{form}.{name}"
        for form, definition in forms.items()
        for name, field in definition.get("properties", {}).items()
        if not said_of(name, field, definition, forms)
    }
    assert silent == set()


def said_of(name: str, field: dict, form: dict, forms: dict[str, dict]) -> str | bool:
    """What a field's own text says, or that of the form it opens, or whether its form's text names it."""
    opens = forms.get(field.get("$ref", "").rpartition("/")[2], {}) if "$ref" in field else {}
    return field.get("description") or opens.get("description") or f"{name}:" in form.get("description", "")


async def test_the_example_can_be_asked_for_as_it_is_and_nonsense_cannot(deployed: None, on_server: str) -> None:
    spec = json.loads((REPOSITORY / "examples/ticket_routing/compile.json").read_text(encoding="utf-8"))
    async with get_client() as client:
        deployment = await client.read_deployment_by_name("compile-program/default")
        later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
        asked = await client.create_flow_run_from_deployment(deployment.id, parameters={"spec": spec}, state=later)
        assert asked.parameters["spec"] == spec
        nonsense = {**spec, "search": {"trials": 0}}
        with pytest.raises(PrefectHTTPStatusError, match="trials"):
            await client.create_flow_run_from_deployment(deployment.id, parameters={"spec": nonsense}, state=later)


async def test_an_automation_edited_by_hand_is_put_right(on_server: str, tmp_path: Path) -> None:
    await setup(tmp_path)
    wanted = automations(Recovery())[0]
    async with get_client() as client:
        (found,) = await client.read_automations_by_name(wanted.name)
        edited = wanted.model_copy(update={"enabled": False, "description": "mine", "actions": []})
        await client.update_automation(found.id, edited)
        said = await setup(tmp_path)
        (righted,) = await client.read_automations_by_name(wanted.name)
    assert f"automation {wanted.name!r} was put right (actions, description, enabled)" in said
    assert righted.id == found.id
    assert (righted.enabled, righted.description, righted.actions) == (True, wanted.description, wanted.actions)


async def test_of_two_automations_with_one_name_one_stays(on_server: str, tmp_path: Path) -> None:
    await setup(tmp_path)
    wanted = automations(Recovery())[1]
    async with get_client() as client:
        await client.create_automation(wanted)
        said = await setup(tmp_path)
        assert len(await client.read_automations_by_name(wanted.name)) == 1
    assert f"automation {wanted.name!r} was there already; 1 more of that name removed" in said


async def test_a_folder_without_a_deployment_file_is_told_how_to_deploy(on_server: str, tmp_path: Path) -> None:
    (told,) = [sentence for sentence in await setup(tmp_path) if "nothing was deployed" in sentence]
    assert "prefect deploy flows.compile:compile_program" in told


async def test_a_deployment_file_that_names_nothing_is_one_clear_sentence(on_server: str, tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text(
        f"deployments: [{{name: x, entrypoint: 'no_such_module:f', work_pool: {{name: {WORK_POOL}}}}}]"
    )
    with pytest.raises(SwarmcError, match="No module named 'no_such_module'; correct the file") as caught:
        await setup(tmp_path)
    assert "\n" not in str(caught.value)


async def test_without_a_server_setup_says_what_to_start(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(SwarmcError, match="make ui"):
        await setup(tmp_path)


async def test_a_server_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    away = "http://user:hunter2@127.0.0.1:9/api"
    with temporary_settings({PREFECT_API_URL: away}), pytest.raises(SwarmcError, match="does not answer") as caught:
        await setup(tmp_path)
    assert "hunter2" not in str(caught.value)


async def test_saved_secrets_are_hidden_when_the_server_is_asked(on_server: str, tmp_path: Path) -> None:
    await setup(tmp_path)
    ledger = LedgerDatabase(url=SecretStr("postgresql+psycopg://swarmc:hunter2@localhost/swarmc"))
    store = S3Store(bucket="bucket", access_key="visible", secret_key=SecretStr("hunter2"))
    await ledger.asave("hidden", overwrite=True)
    await store.asave("hidden", overwrite=True)
    async with get_client() as client:
        for block in (ledger, store):
            document = await client.read_block_document_by_name(
                "hidden", block.get_block_type_slug(), include_secrets=False
            )
            assert "hunter2" not in document.model_dump_json()
            assert "****" in document.model_dump_json()
    assert (await LedgerDatabase.aload("hidden")).url.get_secret_value().startswith("postgresql+psycopg://swarmc:hunt")


@pytest.mark.parametrize("block", BLOCK_TYPES, ids=lambda block: block.get_block_type_slug())
def test_every_secret_of_a_block_is_a_hidden_field(block) -> None:
    fields = block.model_json_schema()["properties"]
    named = {name for name in fields if SECRET_NAMES.search(name)}
    assert named <= {name for name in fields if '"password"' in json.dumps(fields[name])}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["entrypoint"])
def test_every_entrypoint_is_a_module_that_imports(deployment) -> None:
    assert "/" not in deployment["entrypoint"]
    assert ".py:" not in deployment["entrypoint"]
    asked = ASKED_OF_A_PERSON.get(deployment["entrypoint"], {})
    assert import_object(deployment["entrypoint"]).validate_parameters({**asked, **deployment["parameters"]})


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["entrypoint"])
def test_every_deployment_is_ours_and_beats_as_the_rules_expect(deployment) -> None:
    assert TAG in deployment["tags"]
    assert deployment["work_pool"]["name"] == WORK_POOL
    assert RUN_ENV.items() <= deployment["work_pool"]["job_variables"]["env"].items()
    assert deployment["concurrency_limit"]["collision_strategy"] == "ENQUEUE"


def test_the_default_parameters_are_those_of_the_example() -> None:
    example = (REPOSITORY / "examples/ticket_routing/compile.json").read_text(encoding="utf-8")
    (deployed,) = [each["parameters"]["spec"] for each in DEPLOYMENTS if each["entrypoint"].startswith("flows.compile")]
    assert CompileSpec.model_validate(deployed) == CompileSpec.model_validate_json(example)


@flow(name="rules-are-tried-on")
async def idle() -> None:
    """Runs of it are given states by hand; it never runs."""


async def in_state(client: PrefectClient, deployment_id: UUID | None, state: State) -> UUID:
    """A run that is in `state`: of the deployment, or of none but with our tag."""
    if deployment_id is None:
        run = await client.create_flow_run(idle, tags=[TAG])
    else:
        run = await client.create_flow_run_from_deployment(deployment_id)
    await client.set_flow_run_state(run.id, state, force=True)
    return run.id


async def beat(api_url: str, run_id: UUID, deployment_id: UUID) -> None:
    """One heartbeat, as the flow's process sends it."""
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run_id}"},
        "related": [
            {"prefect.resource.id": f"prefect.deployment.{deployment_id}", "prefect.resource.role": "deployment"},
            {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
        ],
    }
    async with httpx.AsyncClient() as http:
        (await http.post(f"{api_url}/events", json=[event])).raise_for_status()


@asynccontextmanager
async def beating(api_url: str, run_id: UUID, deployment_id: UUID) -> AsyncIterator[None]:
    """A heart that goes on: one beat alone is, before long, the silence of a dead process."""

    async def go_on() -> None:
        while True:
            await asyncio.sleep(1)
            await beat(api_url, run_id, deployment_id)

    await beat(api_url, run_id, deployment_id)
    heart = asyncio.create_task(go_on())
    try:
        yield
    finally:
        heart.cancel()
        await asyncio.gather(heart, return_exceptions=True)


async def wait_for_state(client: PrefectClient, run_id: UUID, name: str, limit_s: float = 45) -> FlowRun:
    deadline_s = time.monotonic() + limit_s
    while (run := await client.read_flow_run(run_id)).state_name != name:
        assert time.monotonic() < deadline_s, f"{run.state_name} is not {name}"
        await asyncio.sleep(0.2)
    return run


@pytest.fixture
async def deployment_id(on_server: str, tmp_path: Path) -> UUID:
    """A deployment with our tag, under rules that wait as little as they can."""
    await setup(tmp_path, QUICK)
    async with get_client() as client:
        return await client.create_deployment(
            flow_id=await client.create_flow(idle), name="tried", tags=[TAG], work_pool_name=WORK_POOL
        )


@pytest.mark.slow
async def test_lost_runs_of_our_deployments_come_back_and_living_or_foreign_ones_are_left_alone(
    on_server: str, deployment_id: UUID
) -> None:
    async with get_client() as client:
        foreign = await in_state(client, None, Crashed())
        alive = await in_state(client, deployment_id, Crashed())
        silent = await in_state(client, deployment_id, Running())
        await beat(on_server, silent, deployment_id)
        crashed = await in_state(client, deployment_id, Crashed())
        stuck = await in_state(client, deployment_id, Pending(name="Submitting"))
        async with beating(on_server, alive, deployment_id):
            for run_id in (crashed, stuck, silent):
                await wait_for_state(client, run_id, "AwaitingRetry")
            states = [(await client.read_flow_run(run_id)).state_name for run_id in (alive, foreign)]
        assert states == ["Crashed", "Crashed"]
        silent_states = {state.name for state in await client.read_flow_run_states(silent)}
        assert silent_states == {"Scheduled", "Running", "Crashed", "AwaitingRetry"}


async def test_a_run_that_keeps_coming_back_is_given_up(on_server: str, deployment_id: UUID) -> None:
    async with get_client() as client:
        run_id = await in_state(client, deployment_id, AwaitingRetry())
        for _ in range(QUICK.most_returns - 2):
            await client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
        assert (await client.read_flow_run(run_id)).state_name == "AwaitingRetry"
        await client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
        failed = await wait_for_state(client, run_id, "Failed")
    assert "again and again" in str(failed.state)
