"""The server that tests and benchmarks count with: it counts right, and its world is worth optimising."""

import asyncio

import dspy
import pytest

from benchmarks import counting_world
from blocks.venues.openai_compatible import OpenAIVenue
from swarmc.contracts.errors import VenueError


def program_lm(server) -> dspy.LM:
    return dspy.LM("openai/counting", api_base=server.base_url, api_key="none", cache=False, temperature=0)


async def accuracy(server, instruction: str, demos: int, rows: list[tuple[str, str]]) -> float:
    """Share of right answers of a DSPy program with this instruction and so many right demonstrations."""
    predict = dspy.Predict(dspy.Signature("question -> answer", instruction))
    examples = counting_world.questions(20, seed=99)[:demos]
    predict.demos = [dspy.Example(question=question, answer=answer) for question, answer in examples]
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    with dspy.context(lm=program_lm(server), adapter=adapter):
        answers = await asyncio.gather(*(predict.acall(question=question) for question, _ in rows))
    return sum(answer.answer == right for answer, (_, right) in zip(answers, rows, strict=True)) / len(rows)


async def test_instructions_and_demonstrations_matter_to_a_dspy_program(counting):
    rows = counting_world.questions(150, seed=1)
    bad = await accuracy(counting, "Be creative. Judge by the mood.", 0, rows)
    good = await accuracy(counting, "Look at the topic. Answer with the category. Read carefully.", 0, rows)
    best = await accuracy(counting, "Look at the topic. Answer with the category. Read carefully.", 5, rows)
    assert bad + 0.2 < good
    assert good + 0.05 < best


async def test_accuracy_is_what_the_world_says(counting):
    rows = counting_world.questions(300, seed=2)
    instruction = "Look at the topic."
    expected = sum(counting_world.chance(instruction, 0, 0, question) for question, _ in rows) / len(rows)
    assert await accuracy(counting, instruction, 0, rows) == pytest.approx(expected, abs=0.09)


async def test_every_kind_of_output_field_is_given_its_kind(counting):
    signature = dspy.Signature(
        "question -> reasoning, label: Literal['a', 'b'], score: float, tags: list[str], ok: bool"
    )
    with dspy.context(lm=program_lm(counting), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        answer = await dspy.Predict(signature).acall(question="my card")
    assert answer.label in ("a", "b")
    assert (type(answer.score), type(answer.tags), type(answer.ok)) == (float, list, bool)


async def test_it_proposes_instructions_that_its_world_rewards_or_punishes(counting):
    signature = dspy.Signature("dataset_summary -> instruction")
    with dspy.context(lm=program_lm(counting), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        proposer = dspy.Predict(signature)
        written = await asyncio.gather(*(proposer.acall(dataset_summary=f"set {i}") for i in range(12)))
    texts = {answer.instruction for answer in written}
    assert len(texts) > 6
    values = {counting_world.chance(text, 0, 0, "card") for text in texts}
    assert max(values) > min(values) + 0.1


async def test_a_label_in_the_question_is_the_right_answer():
    assert counting_world.right_answer("number 3 label=red") == "red"
    assert counting_world.right_answer("my parcel, again") == "shipping"
    assert counting_world.right_answer("") is None


async def test_counts_tell_repeated_bodies_and_survive_in_the_log(serving, ask, tmp_path):
    log = tmp_path / "calls.log"
    server = serving("--log", str(log))
    async with OpenAIVenue(server.base_url, "m") as venue:
        for text in ("one", "two", "one"):
            await venue.complete(ask("m", text))
        stats = server.stats()
    assert (stats["requests"], stats["total"], stats["unique"], stats["repeated"]) == (3, 3, 2, 1)
    assert (stats["in_flight"], stats["in_flight_max"]) == (0, 1)
    lines = [line.split()[0] for line in log.read_text().splitlines()]
    assert len(lines) == 3
    assert len(set(lines)) == 2


async def test_failures_are_drawn_anew_for_every_try_and_the_same_for_every_run(serving, ask):
    fates = []
    for _ in range(2):
        server = serving("--error-rate", "0.3", "--garbage-rate", "0.2")
        async with OpenAIVenue(server.base_url, "m") as venue:
            answers = [await _outcome(venue, ask("m", f"q{i % 8}")) for i in range(40)]
        fates.append(answers)
    assert fates[0] == fates[1]
    assert any(len(set(fates[0][i::8])) > 1 for i in range(8))


async def _outcome(venue: OpenAIVenue, request) -> str:
    try:
        return (await venue.complete(request)).text
    except VenueError as error:
        return str(error).partition("(")[2]


async def test_a_dropped_client_still_counts_for_that_is_what_is_billed(serving, ask):
    server = serving("--latency-ms", "200")
    async with OpenAIVenue(server.base_url, "m", timeout_s=0.05) as venue:
        with pytest.raises(VenueError):
            await venue.complete(ask("m"))
    for _ in range(50):
        if server.stats()["total"]:
            break
        await asyncio.sleep(0.05)
    assert server.stats()["total"] == 1


async def test_a_malformed_request_is_refused(counting):
    for payload in (b"{}", b"[]", b"nonsense", b'{"messages":[]}'):
        reader, writer = await asyncio.open_connection("127.0.0.1", counting.port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(payload)}\r\n\r\n"
        writer.write(head.encode() + payload)
        assert b" 400 " in await reader.readuntil(b"\r\n")
        writer.close()


def test_the_world_is_the_same_in_every_process():
    for question, right in counting_world.questions(10, seed=0):
        assert counting_world.right_answer(question) == right
    assert counting_world.chance("Look at the topic.", 2, 0, "my card") == pytest.approx(0.5955, abs=0.0001)
