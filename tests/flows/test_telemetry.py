"""Spans of a run hang under Prefect's own, and one trace holds the run that was killed and the one that went on."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect import get_client
from pydantic import SecretStr

from blocks.sinks.telemetry import Telemetry
from tests.blocks.sinks.conftest import Received, receiver

__all__ = ["receiver"]

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_killed_flow_and_the_one_that_goes_on_are_one_trace_under_prefects_spans(
    prefect_env: dict[str, str], prefect_api_url: str, receiver: Callable[..., Received]
) -> None:
    seen = receiver()
    command = [sys.executable, "-m", "tests.flows.traced_flow", seen.url]
    environment = {**prefect_env, "PREFECT_API_URL": prefect_api_url}
    killed = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=100)
    assert killed.returncode == -signal.SIGKILL
    before = {span["span_id"] for span in seen.spans()}
    went_on = subprocess.run([*command, killed.stdout.strip()], env=environment, cwd=ROOT, timeout=100)
    assert went_on.returncode == 0
    spans = seen.spans()
    assert len({span["trace_id"] for span in spans}) == 1
    assert {span["name"] for span in spans if span["span_id"] in before} >= {"dsrs.root", "dsrs.predict.Step1"}
    named = {span["name"].partition("-")[0]: span for span in spans if span["span_id"] not in before}
    path = ["dsrs.root", "dsrs.stage.search", "search", "traced"]
    parents = [named[name]["parent_span_id"] for name in path[:-1]]
    assert parents == [named[name]["span_id"] for name in path[1:]]
    assert named["dsrs.run"]["parent_span_id"] == named["traced"]["span_id"]


async def test_a_saved_block_keeps_its_headers_and_its_form_hides_them(on_server: str) -> None:
    saved = Telemetry(endpoint="http://127.0.0.1:4318", headers=SecretStr("Authorization=Bearer hidden"))
    await saved.asave("traces", overwrite=True)
    loaded = await Telemetry.aload("traces")
    assert loaded.headers.get_secret_value() == "Authorization=Bearer hidden"
    async with get_client() as client:
        seen = await client.read_block_document_by_name("traces", "swarmc-telemetry", include_secrets=False)
    assert "Bearer" not in str(seen.data)
    form = Telemetry.model_json_schema()["properties"]
    assert all(field["title"] and field["description"] for field in form.values())
