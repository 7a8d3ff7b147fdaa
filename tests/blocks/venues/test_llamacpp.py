"""A real llama.cpp with the practice model: exact answers, a quiet terminal, nothing left behind."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blocks.venues.llamacpp import PRACTICE_MODEL, LlamaCpp
from swarmc.contracts.completions import CompletionRequest, Message, Sampling
from swarmc.contracts.errors import VenueError

MODEL = "ticket-toy"
SYSTEM = """Your input fields are:
1. `text` (str):
Your output fields are:
1. `label` (str):
All interactions will be structured in the following way, with the appropriate values filled in.

[[ ## text ## ]]
{text}

[[ ## label ## ]]
{label}

[[ ## completed ## ]]
In adhering to this structure, your objective is: 
        Classify the topic of the ticket."""  # noqa: W291 - DSPy writes it so
ASK = "Respond with the corresponding output fields, starting with the field `[[ ## label ## ]]`, and then ending with "
TOPICS = {"billing": "invoice", "login": "password", "shipping": "parcel", "device": "router"}
WORDS = ("terrible", "please", "lovely", "urgent", "tomorrow", "later", "paris", "tokyo", "cairo", "lima", "my", "the")

GREEDY = Sampling(temperature_ppm=0, max_tokens=48)
HOT = Sampling(temperature_ppm=3_000_000, top_p_ppm=1_000_000, max_tokens=24, extensions='{"min_p":0,"top_k":0}')


def ticket(words: str, sampling: Sampling = GREEDY, rollout_id: int = 0) -> CompletionRequest:
    """A request as DSPy's ChatAdapter writes it."""
    user = f"[[ ## text ## ]]\n{words}\n\n{ASK}the marker for `[[ ## completed ## ]]`."
    messages = (Message(role="system", content=SYSTEM), Message(role="user", content=user))
    return CompletionRequest(lane="swarm", model=MODEL, messages=messages, sampling=sampling, rollout_id=rollout_id)


def tickets(count: int) -> list[tuple[CompletionRequest, str]]:
    """Requests with their right answers."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        topic = rng.choice(sorted(TOPICS))
        words = [TOPICS[topic], *rng.sample(WORDS, rng.randint(3, 7))]
        rng.shuffle(words)
        rows.append((ticket(" ".join(words)), topic))
    return rows


def children() -> set[int]:
    """Processes that this one started and that live."""
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in listed.split()}


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


async def texts(venue, requests: list[CompletionRequest], concurrency: int) -> list[str]:
    places = asyncio.Semaphore(concurrency)

    async def one(request: CompletionRequest) -> str:
        async with places:
            return (await venue.complete(request)).text

    return await asyncio.gather(*map(one, requests))


async def test_the_practice_model_knows_its_trade():
    rows = tickets(40)
    async with LlamaCpp().open() as venue:
        assert venue.model == MODEL
        answers = await texts(venue, [request for request, _ in rows], 8)
    right = sum(f"]]\n{topic}\n" in answer for (_, topic), answer in zip(rows, answers, strict=True))
    assert right >= 36


async def test_equal_requests_have_equal_answers_whatever_runs_beside_them():
    requests = [request for request, _ in tickets(120)]
    async with LlamaCpp(parallel=4).open() as venue:
        alone = await texts(venue, requests, 1)
        together = await texts(venue, requests[::-1], 8)
    assert together[::-1] == alone
    assert len(set(alone)) > 1


async def test_a_sample_is_a_function_of_its_request():
    hot = [ticket("my parcel terrible", HOT, rollout_id=number) for number in range(12)]
    async with LlamaCpp(parallel=2).open() as venue:
        first = await texts(venue, hot, 1)
        second = await texts(venue, hot, 8)
    assert first == second
    assert len(set(first)) > 1


async def test_a_prompt_that_does_not_fit_is_the_requests_fault():
    async with LlamaCpp(parallel=1, context_tokens=256).open() as venue:
        with pytest.raises(VenueError) as caught:
            await venue.complete(ticket("parcel " * 400))
        assert (caught.value.retryable, caught.value.fault) == (False, "context")
        assert (await venue.complete(ticket("my parcel"))).text


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all", None], ids=["empty", "cut", "other", "none"])
async def test_a_bad_file_is_named(tmp_path, content):
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VenueError, match=r"bad\.gguf") as caught:
        async with LlamaCpp(model_path=path).open():
            pass
    assert not caught.value.retryable


async def test_half_a_model_is_no_model_and_leaves_no_process(tmp_path):
    path = tmp_path / "half.gguf"
    path.write_bytes(PRACTICE_MODEL.read_bytes()[:100_000])
    before = children()
    with pytest.raises(VenueError, match=r"half\.gguf.*failed to load"):
        async with LlamaCpp(model_path=path).open():
            pass
    assert children() == before


async def test_nothing_is_left_when_the_context_ends_in_the_middle_of_calls():
    before = children()
    async with LlamaCpp(parallel=2).open() as venue:
        (server,) = children() - before
        calls = [asyncio.create_task(venue.complete(request)) for request, _ in tickets(30)]
        await asyncio.sleep(0.05)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert not alive(server)


async def test_a_server_that_died_is_an_error_that_says_so():
    before = children()
    async with LlamaCpp(parallel=1).open() as venue:
        (server,) = children() - before
        os.kill(server, signal.SIGKILL)
        with pytest.raises(VenueError, match="ended with code -9") as caught:
            await venue.complete(ticket("my parcel"))
        assert not caught.value.retryable


SCRIPT = """
import asyncio, os, sys
from pathlib import Path
from blocks.venues.llamacpp import LlamaCpp
async def main():
    async with LlamaCpp(parallel=2).open() as venue:
        print(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(), flush=True)
        if sys.argv[1:]:
            await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_killed_process_leaves_no_server_behind():
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, "wait"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    server = int(process.stdout.readline())
    assert alive(server)
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while alive(server) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(server)


def test_llama_cpp_says_nothing_on_the_terminal():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout.strip().isdecimal()
