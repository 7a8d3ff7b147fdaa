"""The law of every ledger: a completion is bought once, a budget holds, and every msat is somewhere."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blocks.ledger import SqlLedger
from swarmc.contracts.completions import Completion, CompletionRequest, Message, Stage, ToolCall, Usage
from swarmc.contracts.errors import LedgerError, RunFenced
from swarmc.contracts.money import Budget, BudgetPolicy, Claim, Granted, Held, Known, Refused, Tally
from swarmc.contracts.ports import Ledger, RunLease

SPEC_ID = "sha256:" + "5" * 64
OTHER_SPEC_ID = "sha256:" + "6" * 64
NO_CAPS = BudgetPolicy()
patient = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
completions = st.builds(
    Completion,
    text=texts,
    model=texts,
    venue=texts,
    reasoning=texts,
    usage=st.builds(Usage, prompt_tokens=st.integers(0, 10**9), cost_msats=st.integers(0, 10**12)),
    tool_calls=st.lists(st.builds(ToolCall, id=texts, name=texts, arguments=texts), max_size=2).map(tuple),
    latency_ms=st.integers(0, 10**7),
)


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    async with SqlLedger.open(ledger_url) as ledger:
        yield ledger


def _run(
    ledger: Ledger, run_id: str = "run", *, spec_id: str = SPEC_ID, budget: BudgetPolicy = NO_CAPS, wait_s: float = 0
) -> AbstractAsyncContextManager[RunLease]:
    return ledger.open_run(run_id, spec_id=spec_id, name="a run", budget=budget, wait_s=wait_s)


def _request(content: object) -> CompletionRequest:
    return CompletionRequest(lane="swarm", model="toy", messages=(Message(role="user", content=str(content)),))


def _claim(lease: RunLease, content: object, *, stage: Stage = "search", max_msats: int = 10) -> Claim:
    request = _request(content)
    return Claim(
        run_id=lease.run_id,
        epoch=lease.epoch,
        request_id=request.request_id,
        stage=stage,
        lane=request.lane,
        max_msats=max_msats,
    )


def _completion(text: str = "yes", cost_msats: int = 7) -> Completion:
    usage = Usage(prompt_tokens=3, completion_tokens=2, cost_msats=cost_msats)
    return Completion(text=text, model="toy", usage=usage, venue="test")


async def _reserve(ledger: Ledger, lease: RunLease, content: object, **claim: int) -> str:
    answer = await ledger.reserve(_claim(lease, content, **claim))
    assert isinstance(answer, Granted), answer
    return answer.reservation_id


async def _buy(ledger: Ledger, lease: RunLease, content: object, completion: Completion | None = None) -> None:
    await ledger.settle(await _reserve(ledger, lease, content), _request(content), completion or _completion())


async def _total(ledger: Ledger, run_id: str = "run") -> Tally:
    return (await ledger.account(run_id)).total


@patient
@given(completion=completions)
async def test_a_settled_completion_reads_back_to_the_byte(ledger: Ledger, completion: Completion) -> None:
    content = uuid.uuid4().hex
    async with _run(ledger) as lease:
        await _buy(ledger, lease, content, completion)
        known = await ledger.known("run", "search", "swarm", _request(content).request_id)
        assert known is not None
        assert known.canonical() == completion.canonical()
        assert await ledger.reserve(_claim(lease, content)) == Known(completion=completion)


async def test_what_was_never_bought_is_not_known(ledger: Ledger) -> None:
    async with _run(ledger):
        assert await ledger.known("run", "search", "swarm", _request(1).request_id) is None


async def test_a_look_in_the_name_of_no_stage_or_lane_is_refused(ledger: Ledger) -> None:
    async with _run(ledger, "a") as first, _run(ledger, "b"):
        await _buy(ledger, first, 1)
        for stage, lane in (("seek", "swarm"), ("search", "swarms"), ("", "")):
            with pytest.raises(LedgerError, match=r"no stage or .* no lane"):
                await ledger.known("b", stage, lane, _request(1).request_id)
        assert await _total(ledger, "b") == Tally()


async def test_fifty_tasks_against_ten_calls_are_granted_exactly_ten(ledger: Ledger) -> None:
    async with _run(ledger, budget=BudgetPolicy(run=Budget(max_calls=10))) as lease:
        answers = await asyncio.gather(*(ledger.reserve(_claim(lease, number)) for number in range(50)))
        assert sum(isinstance(answer, Granted) for answer in answers) == 10
        assert answers.count(Held(why="budget")) == 40
        assert (await _total(ledger)).reserved == 10


async def test_fifty_tasks_together_never_spend_over_the_msats(ledger: Ledger) -> None:
    async with _run(ledger, budget=BudgetPolicy(run=Budget(max_msats=100))) as lease:

        async def work(number: int) -> None:
            answer = await ledger.reserve(_claim(lease, number, max_msats=9))
            while isinstance(answer, Held):
                await asyncio.sleep(0)
                answer = await ledger.reserve(_claim(lease, number, max_msats=9))
            if isinstance(answer, Granted):
                await ledger.settle(answer.reservation_id, _request(number), _completion(cost_msats=4))
            total = await _total(ledger)
            assert total.msats + total.reserved_msats <= 100

        await asyncio.gather(*(work(number) for number in range(50)))
        assert (await _total(ledger)).msats == 92  # a 24th would have fitted, but not its upper bound of 9


async def test_one_task_buys_what_many_ask_for(ledger: Ledger) -> None:
    async with _run(ledger) as lease:
        answers = await asyncio.gather(*(ledger.reserve(_claim(lease, "same")) for _ in range(20)))
        granted = [answer for answer in answers if isinstance(answer, Granted)]
        assert len(granted) == 1
        assert answers.count(Held(why="purchase")) == 19
        await ledger.settle(granted[0].reservation_id, _request("same"), _completion())
        assert await ledger.reserve(_claim(lease, "same")) == Known(completion=_completion())
        assert (await _total(ledger)).calls == 1


async def test_a_call_of_another_live_run_holds_the_same_request(ledger: Ledger) -> None:
    async with _run(ledger, "a") as first, _run(ledger, "b") as second:
        await _reserve(ledger, first, "same")
        assert await ledger.reserve(_claim(second, "same")) == Held(why="purchase")


async def test_a_purchase_given_back_may_be_made_by_another(ledger: Ledger) -> None:
    async with _run(ledger, "a") as first, _run(ledger, "b") as second:
        await ledger.release(await _reserve(ledger, first, "same"), lost=False)
        await _buy(ledger, second, "same")
        assert await _total(ledger, "a") == Tally(failed=1)


async def test_a_released_call_frees_its_budget_and_a_lost_one_does_not(ledger: Ledger) -> None:
    async with _run(ledger, budget=BudgetPolicy(run=Budget(max_calls=1, max_msats=10))) as lease:
        await ledger.release(await _reserve(ledger, lease, 1), lost=False)
        await ledger.release(await _reserve(ledger, lease, 2), lost=True)
        assert await ledger.reserve(_claim(lease, 3)) == Refused(scope="run", unit="calls", limit=1, used=1)
        assert await _total(ledger) == Tally(failed=1, lost=1, lost_msats=10)


@pytest.mark.parametrize(
    ("budget", "refusal"),
    [
        (BudgetPolicy(run=Budget(max_calls=1)), ("run", "calls", 1, 1)),
        (BudgetPolicy(run=Budget(max_msats=16)), ("run", "msats", 16, 7)),
        (BudgetPolicy(stages={"search": Budget(max_calls=1)}), ("stage:search", "calls", 1, 1)),
        (BudgetPolicy(lanes={"swarm": Budget(max_msats=9)}), ("lane:swarm", "msats", 9, 7)),
        (BudgetPolicy(lanes={"swarm": Budget(max_calls=0)}), ("lane:swarm", "calls", 0, 0)),
    ],
)
async def test_a_refusal_names_the_cap_that_ended_it(ledger: Ledger, budget: BudgetPolicy, refusal: tuple) -> None:
    scope, unit, limit, used = refusal
    async with _run(ledger, budget=budget) as lease:
        if used:
            await ledger.settle(await _reserve(ledger, lease, 1, max_msats=8), _request(1), _completion(cost_msats=7))
        assert await ledger.reserve(_claim(lease, 2)) == Refused(scope=scope, unit=unit, limit=limit, used=used)


async def test_caps_of_other_stages_and_lanes_do_not_count(ledger: Ledger) -> None:
    none = Budget(max_calls=0)
    budget = BudgetPolicy(stages={"propose": none, "verify": Budget(max_calls=1)}, lanes={"premium": none})
    async with _run(ledger, budget=budget) as lease:
        await _buy(ledger, lease, 1)
        await _buy(ledger, lease, 2)
        assert isinstance(await ledger.reserve(_claim(lease, 3, stage="verify")), Granted)
        assert isinstance(await ledger.reserve(_claim(lease, 4, stage="propose")), Refused)


async def test_a_known_completion_is_free_when_the_budget_is_gone(ledger: Ledger) -> None:
    async with _run(ledger, budget=BudgetPolicy(run=Budget(max_calls=1))) as lease:
        await _buy(ledger, lease, 1)
        assert isinstance(await ledger.reserve(_claim(lease, 2)), Refused)
        assert isinstance(await ledger.reserve(_claim(lease, 1)), Known)


async def test_another_runs_completion_counts_as_reused_once(ledger: Ledger) -> None:
    async with _run(ledger, "a") as first, _run(ledger, "b") as second:
        await _buy(ledger, first, 1)
        for _ in range(3):
            await ledger.known("b", "search", "swarm", _request(1).request_id)
            await ledger.reserve(_claim(second, 1, stage="verify"))
            await ledger.known("a", "search", "swarm", _request(1).request_id)
        account = await ledger.account("b")
        assert account.total == Tally(reused=1)
        assert account.by_stage() == {"search": Tally(reused=1)}
        assert (await _total(ledger, "a")).reused == 0


async def test_leaving_a_run_loses_what_is_in_flight_and_fences_it(ledger: Ledger) -> None:
    async with _run(ledger) as lease:
        await _buy(ledger, lease, 1)
        await _reserve(ledger, lease, 2)
    assert await _total(ledger) == Tally(calls=1, prompt_tokens=3, completion_tokens=2, msats=7, lost=1, lost_msats=10)
    with pytest.raises(RunFenced, match="closed by its owner"):
        await ledger.reserve(_claim(lease, 3))


async def test_an_answer_that_comes_late_turns_its_loss_into_spend(ledger: Ledger) -> None:
    async with _run(ledger) as lease:
        reservation_id = await _reserve(ledger, lease, 1)
    assert (await _total(ledger)).lost == 1
    await ledger.settle(reservation_id, _request(1), _completion())
    assert await _total(ledger) == Tally(calls=1, prompt_tokens=3, completion_tokens=2, msats=7)


async def test_a_loss_that_was_no_purchase_after_all_can_be_given_back(ledger: Ledger) -> None:
    async with _run(ledger) as lease:
        reservation_id = await _reserve(ledger, lease, 1)
    await ledger.release(reservation_id, lost=False)
    assert await _total(ledger) == Tally(failed=1)


async def test_settling_twice_is_settling_once(ledger: Ledger) -> None:
    async with _run(ledger) as lease:
        reservation_id = await _reserve(ledger, lease, 1)
        for _ in range(2):
            await ledger.settle(reservation_id, _request(1), _completion())
        await ledger.release(reservation_id, lost=True)
        await ledger.release(reservation_id, lost=False)
        assert await _total(ledger) == Tally(calls=1, prompt_tokens=3, completion_tokens=2, msats=7)


async def test_a_reservation_settles_its_own_request_only(ledger: Ledger) -> None:
    async with _run(ledger) as lease:
        reservation_id = await _reserve(ledger, lease, 1)
        with pytest.raises(LedgerError, match="settle each completion with the reservation of its own request"):
            await ledger.settle(reservation_id, _request(2), _completion())
        with pytest.raises(LedgerError, match="reservation nobody is not in the ledger"):
            await ledger.settle("nobody", _request(2), _completion())


async def test_a_run_has_one_owner_at_a_time(ledger: Ledger) -> None:
    async with _run(ledger) as first:
        for _ in range(2):  # a failed try takes nothing from the owner
            with pytest.raises(RunFenced, match=r"'run' is held by .*process"):
                async with _run(ledger):
                    pytest.fail("two owners")
        await _buy(ledger, first, 1)
    async with _run(ledger) as second:
        assert second.epoch == first.epoch + 1


async def test_whoever_waits_gets_the_run_when_it_is_free(ledger: Ledger) -> None:
    async with _run(ledger):
        waiting = asyncio.create_task(_run(ledger, wait_s=20).__aenter__())
        await asyncio.sleep(0.1)
        assert not waiting.done()
    assert (await waiting).epoch == 2


async def test_claims_of_an_earlier_epoch_are_fenced(ledger: Ledger) -> None:
    async with _run(ledger) as old:
        pass
    async with _run(ledger):
        with pytest.raises(RunFenced, match="another process took it over"):
            await ledger.reserve(_claim(old, 1))
        with pytest.raises(RunFenced):
            await ledger.finish_run(old, "completed")


async def test_a_run_keeps_its_account_and_takes_the_new_budget(ledger: Ledger) -> None:
    async with _run(ledger, budget=BudgetPolicy(run=Budget(max_calls=1))) as lease:
        await _buy(ledger, lease, 1)
    budget = BudgetPolicy(run=Budget(max_calls=2))
    async with _run(ledger, budget=budget) as lease:
        assert (lease.epoch, lease.recovered) == (2, 0)
        await _buy(ledger, lease, 2)
        assert await ledger.reserve(_claim(lease, 3)) == Refused(scope="run", unit="calls", limit=2, used=2)
    assert (await ledger.find_run("run")).budget == budget


async def test_a_run_belongs_to_one_spec(ledger: Ledger) -> None:
    async with _run(ledger):
        pass
    with pytest.raises(LedgerError, match=f"compiles spec {SPEC_ID}, not {OTHER_SPEC_ID}"):
        async with _run(ledger, spec_id=OTHER_SPEC_ID):
            pytest.fail("opened")
    async with _run(ledger) as lease:
        assert lease.epoch == 2


async def test_the_error_that_ends_the_work_passes_through(ledger: Ledger) -> None:
    async def work() -> None:
        async with _run(ledger) as lease:
            await _reserve(ledger, lease, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert (await _total(ledger)).lost == 1


async def test_receipts_are_every_settled_call_oldest_first(ledger: Ledger) -> None:
    async with _run(ledger, "a") as lease, _run(ledger, "b") as other:
        for number in range(600):
            await _buy(ledger, lease if number % 2 else other, number, _completion(f"answer {number}", number))
    receipts = [receipt async for receipt in ledger.receipts("a")]
    assert [receipt.usage.cost_msats for receipt in receipts] == list(range(1, 600, 2))
    first = receipts[0]
    assert first.request_id == _request(1).request_id
    assert first.completion_id == _completion("answer 1", 1).content_id
    assert (first.stage, first.lane, first.venue, first.model) == ("search", "swarm", "test", "toy")
    assert sum(receipt.usage.cost_msats for receipt in receipts) == (await _total(ledger, "a")).msats


async def test_runs_are_listed_newest_first(ledger: Ledger) -> None:
    assert await ledger.runs() == []
    for run_id in ("c", "a", "b"):
        async with _run(ledger, run_id):
            pass
    assert [record.run_id for record in await ledger.runs()] == ["b", "a", "c"]
    assert [record.run_id for record in await ledger.runs(limit=1)] == ["b"]
    record = (await ledger.runs())[0]
    assert (record.spec_id, record.name, record.state, record.epoch) == (SPEC_ID, "a run", "running", 1)
    assert record.created_at.tzinfo is not None


async def test_a_run_is_found_by_the_beginning_of_its_id(ledger: Ledger) -> None:
    for run_id in ("run", "run-2", "walk%", "walk_"):
        async with _run(ledger, run_id):
            pass
    assert (await ledger.find_run("run-")).run_id == "run-2"
    assert (await ledger.find_run("run")).run_id == "run"
    assert (await ledger.find_run("walk_")).run_id == "walk_"
    with pytest.raises(LedgerError, match=r"several runs begin with 'walk' .*walk%, walk_"):
        await ledger.find_run("walk")
    with pytest.raises(LedgerError, match="no run begins with 'fly'"):
        await ledger.find_run("fly")


async def test_the_newest_run_that_did_not_complete_is_unfinished(ledger: Ledger) -> None:
    assert await ledger.unfinished_run(SPEC_ID) is None
    for run_id, state in (("old", "failed"), ("stopped", "stopped"), ("done", "completed")):
        async with _run(ledger, run_id) as lease:
            await ledger.finish_run(lease, state)
    async with _run(ledger, "other", spec_id=OTHER_SPEC_ID), _run(ledger, "held"):
        unfinished = await ledger.unfinished_run(SPEC_ID)
        assert unfinished is not None
        assert (unfinished.run_id, unfinished.state) == ("stopped", "stopped")


async def test_how_a_run_ended_is_remembered(ledger: Ledger) -> None:
    async with _run(ledger) as lease:
        await ledger.finish_run(lease, "completed", manifest_uri="file:///manifest.json")
    record = await ledger.find_run("run")
    assert (record.state, record.manifest_uri) == ("completed", "file:///manifest.json")


@pytest.mark.parametrize("run_id", ["", "nobody", "run\0", "../../etc/passwd", "é" * 300, "%"])
async def test_an_unknown_run_is_an_error(ledger: Ledger, run_id: str) -> None:
    with pytest.raises(LedgerError):
        await ledger.account(run_id)
    with pytest.raises(LedgerError):
        _ = [receipt async for receipt in ledger.receipts(run_id)]
    with pytest.raises(LedgerError):
        _ = [purchase async for purchase in ledger.purchases(run_id)]
    claim = Claim(run_id=run_id, epoch=1, request_id=_request(1).request_id, stage="search", lane="swarm", max_msats=1)
    with pytest.raises(LedgerError):
        await ledger.reserve(claim)


async def test_the_purchases_of_a_run_are_all_it_used_with_question_and_answer(ledger: Ledger) -> None:
    async with _run(ledger, "a") as first, _run(ledger, "b") as second:
        await _buy(ledger, first, 0)
        assert await ledger.known("b", "search", "swarm", _request(0).request_id) is not None
        for number in range(1, 206):
            await _buy(ledger, second, number, _completion(f"answer {number}", number))
    used = [purchase async for purchase in ledger.purchases("b")]
    assert [(one.source, one.receipt.run_id) for one in used] == [("reused", "a")] + [("bought", "b")] * 205
    assert [one.request for one in used] == [_request(number) for number in range(206)]
    assert [one.completion.content_id for one in used] == [one.receipt.completion_id for one in used]
    assert [one.receipt for one in used[1:]] == [receipt async for receipt in ledger.receipts("b")]
