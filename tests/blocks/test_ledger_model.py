"""Any sequence of operations on a ledger, against a model: the plain list of all purchases ever tried."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from blocks.ledger import SqlLedger
from swarmc.contracts.completions import Completion, CompletionRequest, Message, Usage
from swarmc.contracts.errors import RunFenced
from swarmc.contracts.money import Budget, BudgetPolicy, Claim, Granted, Held, Known, Refused, Tally
from swarmc.contracts.ports import RunLease

RUNS = ("a", "b")
STAGES = ("search", "verify")
LANES = ("swarm", "premium")
runs, stages, requests = st.sampled_from(RUNS), st.sampled_from(STAGES), st.integers(0, 7)
caps = st.builds(Budget, max_calls=st.none() | st.integers(0, 6), max_msats=st.none() | st.integers(0, 60))
budgets = st.builds(
    BudgetPolicy,
    run=caps,
    stages=st.dictionaries(stages, caps, max_size=1),
    lanes=st.dictionaries(st.sampled_from(LANES), caps, max_size=1),
)


@dataclass
class Purchase:
    """A try to buy. It is `open`, then `lost`, `settled` or `failed`; a lost one may become settled or failed."""

    run: str
    request: int
    stage: str
    max_msats: int = 0
    state: str = "open"
    cost: int = 0
    reservation_id: str = ""

    @property
    def lane(self) -> str:
        return LANES[self.request % 2]

    @property
    def gone(self) -> int:
        return self.max_msats if self.state == "lost" else self.cost


class LedgerMachine(RuleBasedStateMachine):
    """Two runs in one ledger."""

    purchases = Bundle("purchases")

    def __init__(self, runner: asyncio.Runner, ledger: SqlLedger) -> None:
        super().__init__()
        self.runner, self.ledger, self.salt = runner, ledger, uuid.uuid4().hex
        self.tried: list[Purchase] = []
        self.bought: dict[int, Purchase] = {}
        self.reused: dict[tuple[str, int], str] = {}
        self.budgets = dict.fromkeys(RUNS, BudgetPolicy())
        self.opened: dict[str, AbstractAsyncContextManager[RunLease]] = {}
        self.leases: dict[str, RunLease] = {}
        for run in RUNS:
            self._open(run)

    @rule(target=purchases, run=runs, request=requests, stage=stages, max_msats=st.integers(0, 30))
    def reserve(self, run: str, request: int, stage: str, max_msats: int) -> Any:
        wish = Purchase(run, request, stage, max_msats)
        answer = self._do(self.ledger.reserve(self._claim(wish)))
        known = self._known(wish)
        in_flight = any(one.state == "open" and one.request == request for one in self.tried)
        held = Held(why="purchase") if in_flight else self._budget_says(wish)
        if known or held:
            assert answer == (Known(completion=known) if known else held)
            return multiple()
        assert isinstance(answer, Granted)
        wish.reservation_id = answer.reservation_id
        self.tried.append(wish)
        return wish

    @rule(purchase=purchases, percent=st.integers(0, 100))
    def settle(self, purchase: Purchase, percent: int) -> None:
        """Also twice, which changes nothing, and when it was thought lost."""
        if purchase.state == "failed":
            return
        if purchase.state != "settled":
            purchase.state, purchase.cost = "settled", purchase.max_msats * percent // 100
            self.bought.setdefault(purchase.request, purchase)
        request = self._request(purchase.request)
        self._do(self.ledger.settle(purchase.reservation_id, request, self._completion(purchase)))

    @rule(purchase=purchases, lost=st.booleans())
    def release(self, purchase: Purchase, lost: bool) -> None:
        self._do(self.ledger.release(purchase.reservation_id, lost=lost))
        if purchase.state == "open":
            purchase.state = "lost" if lost else "failed"
        elif purchase.state == "lost" and not lost:
            purchase.state = "failed"

    @rule(run=runs, request=requests, stage=stages)
    def look(self, run: str, request: int, stage: str) -> None:
        wish = Purchase(run, request, stage)
        request_id = self._request(request).request_id
        assert self._do(self.ledger.known(run + self.salt, stage, wish.lane, request_id)) == self._known(wish)

    @rule(run=runs, budget=budgets)
    def reopen(self, run: str, budget: BudgetPolicy) -> None:
        """What is in flight is lost, the old lease is fenced, the new budget holds."""
        stale = self._claim(Purchase(run, 0, "search"))
        self._close(run)
        self.budgets[run] = budget
        self._open(run)
        with pytest.raises(RunFenced):
            self._do(self.ledger.reserve(stale))

    @invariant()
    def every_msat_is_somewhere(self) -> None:
        for run in RUNS:
            account = self._do(self.ledger.account(run + self.salt))
            tallies = {(line.stage, line.lane): line.tally for line in account.lines}
            for stage, lane in product(STAGES, LANES):
                assert tallies.get((stage, lane), Tally()) == self._tally(run, stage, lane)

    def teardown(self) -> None:
        for run in RUNS:
            self._close(run)

    def _known(self, wish: Purchase) -> Completion | None:
        bought = self.bought.get(wish.request)
        if bought is None:
            return None
        if bought.run != wish.run:
            self.reused.setdefault((wish.run, wish.request), wish.stage)
        return self._completion(bought)

    def _budget_says(self, wish: Purchase) -> Refused | Held | None:
        policy = self.budgets[wish.run]
        scopes: list[tuple[str, Budget | None, Callable[[Purchase], bool]]] = [
            ("run", policy.run, lambda _: True),
            (f"stage:{wish.stage}", policy.stages.get(wish.stage), lambda one: one.stage == wish.stage),
            (f"lane:{wish.lane}", policy.lanes.get(wish.lane), lambda one: one.lane == wish.lane),
        ]
        held = False
        for scope, budget, covers in scopes:
            mine = [one for one in self.tried if one.run == wish.run and one.state != "failed" and covers(one)]
            pending = [one for one in mine if one.state == "open"]
            for unit, limit, wanted, used, promised in (
                ("calls", budget and budget.max_calls, 1, len(mine) - len(pending), len(pending)),
                ("msats", budget and budget.max_msats, wish.max_msats, sum(one.gone for one in mine),
                 sum(one.max_msats for one in pending)),
            ):  # fmt: skip
                if limit is not None and used + wanted > limit:
                    return Refused(scope=scope, unit=unit, limit=limit, used=used)
                held = held or (limit is not None and used + promised + wanted > limit)
        return Held(why="budget") if held else None

    def _tally(self, run: str, stage: str, lane: str) -> Tally:
        mine = [one for one in self.tried if (one.run, one.stage, one.lane) == (run, stage, lane)]
        settled, pending, lost, failed = (
            [one for one in mine if one.state == state] for state in ("settled", "open", "lost", "failed")
        )
        reused = [at for (of, request), at in self.reused.items() if (of, at, LANES[request % 2]) == (run, stage, lane)]
        return Tally(
            calls=len(settled),
            reused=len(reused),
            reserved=len(pending),
            lost=len(lost),
            failed=len(failed),
            prompt_tokens=3 * len(settled),
            completion_tokens=2 * len(settled),
            msats=sum(one.cost for one in settled),
            reserved_msats=sum(one.max_msats for one in pending),
            lost_msats=sum(one.max_msats for one in lost),
        )

    def _open(self, run: str) -> None:
        opening = self.ledger.open_run(run + self.salt, spec_id=self.salt, name=run, budget=self.budgets[run])
        self.leases[run] = self._do(opening.__aenter__())
        self.opened[run] = opening

    def _close(self, run: str) -> None:
        self._do(self.opened[run].__aexit__(None, None, None))
        for one in self.tried:
            if one.run == run and one.state == "open":
                one.state = "lost"

    def _request(self, number: int) -> CompletionRequest:
        message = Message(role="user", content=f"{self.salt} {number}")
        return CompletionRequest(lane=LANES[number % 2], model="toy", messages=(message,))

    def _completion(self, purchase: Purchase) -> Completion:
        usage = Usage(prompt_tokens=3, completion_tokens=2, cost_msats=purchase.cost)
        return Completion(text=purchase.reservation_id, model="toy", usage=usage)

    def _claim(self, wish: Purchase) -> Claim:
        lease, request_id = self.leases[wish.run], self._request(wish.request).request_id
        where = {"run_id": lease.run_id, "epoch": lease.epoch, "stage": wish.stage, "lane": wish.lane}
        return Claim(**where, request_id=request_id, max_msats=wish.max_msats)

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)


def test_every_answer_and_every_account_is_the_models(ledger_url: str) -> None:
    some = settings(
        max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    with asyncio.Runner() as runner:
        ledger = runner.run(SqlLedger.open(ledger_url).__aenter__())
        try:
            run_state_machine_as_test(lambda: LedgerMachine(runner, ledger), settings=some)
        finally:
            runner.run(ledger.__aexit__(None, None, None))
