"""The bill: it adds up to the account to the msat, and claims no saving that is not known."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from swarmc.compiler.billing import Terms, bill_of, dollars, headings, reference_of, rows, sentences
from swarmc.compiler.reports import bill_parts
from swarmc.contracts.bill import Bill
from swarmc.contracts.money import Account, AccountLine, Tally
from swarmc.contracts.spec import CompileSpec

RATE = 1_000_000
COUNTS = st.integers(0, 10**6)
TALLIES = st.builds(
    Tally,
    **dict.fromkeys(("calls", "reused", "lost", "prompt_tokens", "completion_tokens", "msats", "lost_msats"), COUNTS),
)
PLACES = st.tuples(
    st.sampled_from(("bootstrap", "search", "validate", "verify")), st.sampled_from(("swarm", "validation", "premium"))
)
ACCOUNTS = st.dictionaries(PLACES, TALLIES, max_size=8).map(
    lambda told: Account(run_id="r", lines=tuple(AccountLine(stage=s, lane=n, tally=t) for (s, n), t in told.items()))
)
REFERENCES = st.sampled_from((None, "validation", "premium"))


def by_token(prompt_tokens: int, completion_tokens: int, calls: int) -> int:
    return 2 * prompt_tokens + 5 * completion_tokens


def account(**tallies: Tally) -> Account:
    lines = [AccountLine(stage="search", lane=lane, tally=tally) for lane, tally in tallies.items()]  # type: ignore[arg-type]
    return Account(run_id="r", lines=tuple(lines))


def job(**lanes: dict[str, str]) -> CompileSpec:
    fields = {"program": "q -> a", "dataset": {"source": "x.jsonl"}, "redundancy": {"agree": 2, "of": 3}}
    return CompileSpec.model_validate(fields | {"lanes": {"swarm": {"venue": "auto"}, **lanes}})


@given(ACCOUNTS, REFERENCES, st.sampled_from((by_token, lambda *counts: None, lambda *counts: 0)))
def test_the_lines_add_up_to_the_account_to_the_msat(told: Account, reference, charge):
    bill, total = bill_of(told, Terms(RATE, reference, charge)), told.total
    assert bill.msats == total.msats + total.lost_msats
    assert (bill.calls, bill.reused, bill.lost) == (total.calls, total.reused, total.lost)
    assert sum(line.prompt_tokens for line in bill.lines) == total.prompt_tokens
    assert sum(line.completion_tokens for line in bill.lines) == total.completion_tokens
    assert [(line.stage, line.lane) for line in bill.lines] == [(line.stage, line.lane) for line in told.lines]
    if bill.premium_msats is not None:
        assert bill.premium_msats == sum(line.premium_msats or 0 for line in bill.lines)
    assert Bill.model_validate_json(bill.canonical()) == bill


@given(ACCOUNTS, st.sampled_from(("validation", "premium")))
def test_the_reference_lane_costs_on_itself_what_it_cost(told: Account, reference):
    for line in bill_of(told, Terms(RATE, reference, by_token)).lines:
        if line.lane == reference:
            assert line.premium_msats == line.msats
        else:
            expected = by_token(line.prompt_tokens, line.completion_tokens, line.calls) if line.calls else 0
            assert line.premium_msats == expected
        assert not line.estimated


@given(TALLIES, TALLIES)
def test_an_unknown_price_is_what_a_token_cost_there_on_average_and_is_marked(cheap: Tally, dear: Tally):
    bill = bill_of(account(swarm=cheap, premium=dear), Terms(RATE, "premium"))
    line = bill.lines[0]
    assert bill.estimated == line.estimated == bool(cheap.calls and dear.calls)
    tokens = dear.prompt_tokens + dear.completion_tokens
    if line.estimated and tokens:
        assert line.premium_msats == ceil(dear.msats * (cheap.prompt_tokens + cheap.completion_tokens) / tokens)
    assert line.premium_msats is not None or (cheap.calls and not dear.calls)
    assert any(sentence.startswith("estimated") for sentence in sentences(bill)) == line.estimated


def test_where_no_tokens_were_counted_the_mean_is_of_a_call():
    told = account(swarm=Tally(calls=3, msats=3), premium=Tally(calls=2, msats=201))
    assert bill_of(told, Terms(RATE, "premium")).lines[0].premium_msats == 302


def test_no_price_and_no_call_there_claims_nothing():
    bill = bill_of(account(swarm=Tally(calls=3, msats=30, prompt_tokens=9)), Terms(RATE, "premium"))
    assert (bill.premium_msats, bill.saving_ppm, bill.estimated) == (None, None, False)
    assert rows(bill)[-1] == ["all", "", "30", "$0.000030", "not known", ""]
    assert "what lane premium would have cost is not known" in "\n".join(sentences(bill))


def test_a_free_lane_saves_everything_and_a_free_reference_claims_no_ratio():
    free = account(swarm=Tally(calls=3, prompt_tokens=9))
    assert bill_of(free, Terms(RATE, "premium", by_token)).saving_ppm == 1_000_000
    assert bill_of(free, Terms(RATE, "premium", lambda *counts: 0)).saving_ppm is None


def test_a_dearer_run_says_so():
    bill = bill_of(account(swarm=Tally(calls=1, msats=30, prompt_tokens=10)), Terms(RATE, "premium", by_token))
    assert bill.saving_ppm == -500_000
    assert "so 50.0 % more was paid" in "\n".join(sentences(bill))


def test_reused_calls_are_in_neither_sum_and_lost_ones_count_in_full():
    told = account(swarm=Tally(calls=1, reused=7, lost=2, msats=5, lost_msats=40, prompt_tokens=50))
    bill = bill_of(told, Terms(RATE, "premium", by_token))
    assert (bill.msats, bill.premium_msats) == (45, 100)
    said = "\n".join(sentences(bill))
    assert "7 calls were paid for by earlier runs and are in neither sum" in said
    assert "2 calls were lost and count at the most they can have cost" in said
    assert "what is lost in other lanes is in no price of lane premium" in said


def test_a_run_of_one_quality_compares_with_nothing():
    bill = bill_of(account(swarm=Tally(calls=2, msats=2_500_000)), Terms(RATE))
    assert headings(bill) == ("stage", "lane", "msats", "dollars")
    assert rows(bill) == [["search", "swarm", "2,500,000", "$2.50"], ["all", "", "2,500,000", "$2.50"]]
    assert list(sentences(bill)) == ["1 dollar is 1,000,000 msats"]


def test_play_money_is_marked_wherever_it_is_shown():
    told = account(swarm=Tally(calls=4, msats=40, prompt_tokens=4), premium=Tally(calls=1, msats=100, prompt_tokens=1))
    bill = bill_of(told, Terms(RATE, "premium"), {("search", "swarm"): 40, ("search", "premium"): 100})
    for row in rows(bill):
        assert all("SIMULATED" in cell for cell in row[2:])
    assert next(sentences(bill)) == "SIMULATED: 140 of 140 msats were paid in play money"
    real = bill_of(told, Terms(RATE, "premium", by_token), {("search", "swarm"): 40})
    assert ["SIMULATED" in cell for cell in rows(real)[0][2:]] == [True, True, False, False]
    assert "SIMULATED" not in bill_parts(bill_of(told, Terms(RATE, "premium")))


def test_the_reference_is_premium_else_a_validation_lane_that_differs():
    assert reference_of(job(premium={"venue": "openai/a"}, validation={"venue": "openai/b"})) == "premium"
    assert reference_of(job(validation={"venue": "openai/b"})) == "validation"
    assert reference_of(job(validation={"venue": "auto"})) is None
    assert reference_of(job()) is None


@pytest.mark.parametrize(
    ("msats", "rate", "shown"),
    [(0, 1, "$0"), (1, 10**6, "$0.0000010"), (999_999, 10**6, "$1.00"), (10**10, 10**6, "$10,000.00")],
)
def test_dollars_read_well_at_any_size(msats: int, rate: int, shown: str):
    assert dollars(msats, rate) == shown


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="msats_per_usd"):
        bill_of(account(), Terms(0))
