"""The search benchmark: worlds that stay as they are, a server that counts as the process does, honest arithmetic."""

import json
import time
import urllib.error
import urllib.request
from dataclasses import asdict

import dspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.lanes_compile import PRICES_MSATS, agreement, models_of, run_task
from benchmarks.lanes_compile import Task as LanesTask
from benchmarks.market import DIRECT, OURS, PAID, SIDES, TRADERS, Found, added_ms, buyer_of, floors, market_of
from benchmarks.market_parts import Sampler
from benchmarks.search_model import Model
from benchmarks.search_ours import CONCURRENCY, Compile, run_ours
from benchmarks.search_peers import examples_of, http_lm, in_process_lm, program_of
from benchmarks.search_ratios import Peer, at_score, compared, interval, means, runs_at
from benchmarks.search_rows import LADDER, Measured, Task, code_of_ours
from benchmarks.search_server import Door, launch
from benchmarks.search_table import Findings, table
from benchmarks.worlds import FAMILIES, GIVEN, OWN_SCORE, Shown, World, changed
from swarmc.nostr.keys import SecretKey

NOTHING = Shown(frozenset(), ())
PLACES = [("additive", 1), ("interaction", 1), ("two", 1)]
GOLDEN = {
    "additive": (0.611040509, 0xF173ED7EFE, "T00003 parcel still was again screen still"),
    "interaction": (0.642295322, 0xB7FEEEDDF8, "T00003 screen again screen card not my"),
    "nonadditive": (0.148024639, 0x440056100C, "T00003 the again was parcel screen has"),
    "two": (0.556781427, 0xB147574BEFBEABF7C3FD, "T00003 today card not please the screen"),
}


@pytest.fixture(scope="module")
def server():
    with launch() as started:
        yield started


def shown(world, *rules, demos=()):
    return [Shown(frozenset(rules), tuple(demos))] * len(world.steps)


def row(task, calls, true):
    return {**asdict(task), "calls": calls, "msats": 40 * calls, "true": true}


def ladder_rows(peer_true, peer_calls=2_000):
    """Ours rises by .1 a rung from .6; the peer has what is given, in every world."""
    rows = {}
    for family, number in PLACES:
        for index, runs in enumerate(LADDER["ours"]):
            task = Task("ours", runs, family, number, 0)
            rows[task] = row(task, runs, 0.6 + 0.1 * index)
        task = Task("medium", 0, family, number, 0)
        rows[task] = row(task, peer_calls, peer_true)
    return rows


# Worlds


@pytest.mark.parametrize("family", FAMILIES)
def test_a_world_answers_as_it_did_when_rows_were_measured(family):
    world = World(family, 1)
    prompt = shown(world, "g01", "g07", "s03", demos=[(4, True), (9, True), (11, False)])
    bits = [world.is_right(step, prompt[step], "key", t, 0.0) for step in world.steps_range for t in range(40)]
    digest = sum(bit << place for place, bit in enumerate(bits))
    assert (round(world.true_score(prompt), 9), digest, world.texts[3]) == GOLDEN[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_uncompiled_program_scores_the_same_in_every_world(family):
    assert World(family, 3).true_score(shown(World(family, 3))) == pytest.approx(OWN_SCORE, abs=1e-4)


def log_odds(world, prompt):
    p = (world.chances(prompt, np.arange(50)) - 0.02) / 0.96
    return np.log(p / (1 - p))


@pytest.mark.parametrize(("family", "additive"), [("additive", True), ("interaction", False), ("nonadditive", False)])
def test_instruction_and_demonstrations_add_up_in_the_additive_family_alone(family, additive):
    world, demos = World(family, 1), [(4, True), (9, True)]
    none, said = log_odds(world, shown(world)), log_odds(world, shown(world, "g01", "s02"))
    seen, both = log_odds(world, shown(world, demos=demos)), log_odds(world, shown(world, "g01", "s02", demos=demos))
    assert np.allclose(both - none, (said - none) + (seen - none), atol=1e-6) == additive


def test_answers_to_two_prompts_agree_more_often_than_chance_has_it():
    world = World("additive", 1)
    one, other = ([world.is_right(0, NOTHING, key, t, 0.0) for t in range(400)] for key in ("a", "b"))
    assert 0.3 < np.corrcoef(one, other)[0, 1] < 0.8


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_world_keeps_the_old_tickets_and_brings_its_own(family):
    old, new = World(family, 1), changed(World(family, 1), 0.9)
    assert new.texts[:GIVEN] == old.texts[:GIVEN]
    assert not {new.texts[i] for i in new.given} & {old.texts[i] for i in old.given}
    assert new.true_score(shown(new)) == pytest.approx(OWN_SCORE, abs=1e-4)
    assert all(f"T{i:05}" == new.texts[i][:6] for i in new.given)


@pytest.mark.parametrize("correlation", [0.9, 0.7])
def test_weights_of_changed_worlds_are_correlated_as_said_and_as_widely_spread(correlation):
    pairs = []
    for number in range(1, 16):
        old = World("additive", number)
        new = changed(old, correlation)
        pairs += [(old._weights[0][0][rule], new._weights[0][0][rule]) for rule in old._weights[0][0]]
    before, after = np.array(pairs).T
    assert np.corrcoef(before, after)[0, 1] == pytest.approx(correlation, abs=0.08)
    assert after.std() == pytest.approx(before.std(), rel=0.15)


def test_a_world_that_did_not_change_scores_prompts_as_before():
    old = World("interaction", 1)
    same, other = changed(old, 1.0), changed(old, 0.0)
    prompt = shown(old, "g01", "s02", demos=[(4, True)])[0]
    effect, kept, lost = (world._profile(0, prompt) - world._base for world in (old, same, other))
    assert np.allclose(kept, effect)
    assert not np.allclose(lost, effect, atol=0.1)


# The model, and the server in front of it


def test_a_repeated_request_is_answered_but_counted_once():
    model = Model(World("additive", 1), 0)
    asked = [("user", "Propose.\nRespond with the corresponding output fields [[ ## instruction ## ]]")]
    cold = [model.answer(asked, warm=False) for _ in range(3)]
    assert (model.calls, len(set(cold))) == (1, 1)
    model.answer(asked, warm=False, sample=1)
    assert model.calls == 2
    assert len({model.answer(asked, warm=True) for _ in range(3)}) > 1
    assert model.calls == 5


def test_a_copro_request_is_answered_with_a_child_of_the_best_attempt():
    model = Model(World("additive", 1), 0)
    tried = "[1] «Instruction #1: Rule g05.»\n[2] «Resulting Score #1: 71.0»\n[3] «Instruction #2: Rule g09.»"
    ask = f"[[ ## attempted_instructions ## ]]\n{tried}\n[4] «Resulting Score #2: 40»\n\nRespond with the corresponding"
    said = [model.answer([("user", f"{ask} output fields [[ ## instruction ## ]] {i}")], warm=False) for i in range(8)]
    assert sum("g05" in text for text in said) > 4
    assert not any("g09" in text for text in said)


@given(st.sampled_from(FAMILIES), st.tuples(*[st.integers(0, 9_999)] * 5))
def test_a_door_is_found_by_its_name(family, numbers):
    door = Door(family, *numbers)
    assert Door.named(door.name) == door


@pytest.mark.parametrize("name", ["gpt-4o", "", "additive-1", "strange-1.r0.s0.l0.t0", "additive-1.r0.s0.l0.tx"])
def test_a_name_that_is_no_door_opens_nothing(name):
    assert Door.named(name) is None


@pytest.mark.parametrize(("body", "status"), [(b'{"model": "gpt", "messages": []}', 404), (b"{}", 400), (b"no", 400)])
def test_the_server_refuses_what_it_cannot_answer(server, body, status):
    request = urllib.request.Request(f"{server.base_url}/chat/completions", body)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == status
    assert "message" in json.load(refused.value)["error"]


@pytest.mark.parametrize("family", ["additive", "two"])
def test_ours_makes_the_same_calls_over_http_as_in_this_process(server, family):
    here, there = (run_ours(Compile(Door(family, 2, 0), 60), where) for where in (None, server))
    same = ("calls", "kinds", "tokens", "said_tokens", "msats", "search_calls", "true")
    assert {key: here[key] for key in same} == {key: there[key] for key in same}
    assert here["calls"] > 60


def test_dspys_client_is_answered_over_http_as_in_this_process(server):
    door, answers, counts = Door("two", 2, 0), [], []
    model = door.model()
    for lm in (in_process_lm(model), http_lm(door, server)):
        with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
            program = program_of(door.world)
            answers.append([program(**example.inputs()).label for example in examples_of(door.world)[:25]])
            program(**examples_of(door.world)[0].inputs())
    counts = server.stats(door)
    assert answers[0] == answers[1]
    assert {key: counts[key] for key in model.counts()} == model.counts()
    assert counts["calls"] == 50


def test_a_cap_is_not_passed_even_by_a_compile_that_wants_more(server):
    done = run_ours(Compile(Door("additive", 2, 0), 500, cap=70), server)
    assert (done["calls"], done["ended"]) == (70, "budget")


def test_time_in_flight_is_what_the_latency_makes_it(server):
    done = run_ours(Compile(Door("additive", 2, 0, latency_ms=20), 40), server)
    assert done["in_flight_s"] >= 0.02 * done["calls"]
    assert done["wall_s"] > 0.02 * done["calls"] / CONCURRENCY
    assert done["in_flight_max"] <= 2 * CONCURRENCY  # two lanes


# The arithmetic


@pytest.mark.parametrize(
    ("wanted", "amount", "bound"),
    [(0.5, 100, "≥"), (0.6, 100, "≥"), (0.65, 200, ""), (0.7, 400, ""), (0.71, 400, "≤")],
)
def test_the_amount_at_a_score_is_read_off_the_line_or_said_to_be_a_bound(wanted, amount, bound):
    assert at_score([0.6, 0.7], [100, 400], wanted) == (pytest.approx(amount), bound)


def test_a_rung_that_is_worse_than_a_smaller_one_does_not_lower_the_ladder():
    assert at_score([0.6, 0.8, 0.7], [100, 200, 400], 0.79)[0] < 200


@pytest.mark.parametrize(
    ("true", "shown_as"), [(0.7, "6.7x [6.7, 6.7]"), (0.5, "≥16.7x [≥16.7"), (0.99, "≤2.2x [≤2.2")]
)
def test_a_ratio_says_when_it_is_only_a_bound(true, shown_as):
    ratio = compared(ladder_rows(true), Peer("medium"), Peer("ours"), PLACES, "calls")
    assert str(ratio).startswith(shown_as)


def test_the_interval_of_a_ratio_comes_from_the_worlds_that_differ():
    rows = ladder_rows(0.7)
    odd = Task("medium", 0, "two", 1, 0)
    rows[odd] = row(odd, 8_000, 0.7)
    ratio = compared(rows, Peer("medium"), Peer("ours"), PLACES, "calls")
    assert ratio.low < ratio.value < ratio.high
    assert ratio.theirs == 4_000


def test_a_world_without_rows_is_left_out_of_both_sides():
    rows = {task: found for task, found in ladder_rows(0.7).items() if (task.who, task.family) != ("medium", "two")}
    assert compared(rows, Peer("medium"), Peer("ours"), PLACES, "calls").value == pytest.approx(2_000 / 300)
    assert compared(rows, Peer("gepa"), Peer("ours"), PLACES, "calls") is None


def test_means_leave_out_rows_that_were_timed_or_capped():
    rows = ladder_rows(0.7)
    for task in (Task("medium", 0, "two", 1, 0, latency_ms=50), Task("medium", 0, "two", 1, 0, cap=9)):
        rows[task] = row(task, 10**9, 0.0)
    assert means(rows, Peer("medium"), PLACES, "calls").tolist() == [2_000] * 3


def test_runs_at_a_score_are_rounded_up_to_tens():
    assert runs_at(ladder_rows(0.705), Peer("medium"), PLACES) == (320, "")
    assert runs_at(ladder_rows(0.95), Peer("medium"), PLACES) == (900, "≤")


def test_the_interval_of_equal_worlds_is_a_point():
    assert interval(np.full(5, 0.7)) == (pytest.approx(0.7), pytest.approx(0.7))


# Rows and table


def test_a_stored_row_is_read_again_only_while_the_code_is_the_same(tmp_path):
    path, task = tmp_path / "rows.jsonl", Task("ours", 40, "additive", 2, 0)
    stale, fresh = ({**row(task, calls, 0.5), "code": code} for calls, code in ((1, "old"), (2, code_of_ours())))
    path.write_text(json.dumps(stale) + "\n")
    with launch() as started:
        assert Measured(path, started, in_process=True).rows([task], "rows")[task]["calls"] > 40
    path.write_text(json.dumps(fresh) + "\n")
    assert Measured(path, None, in_process=True).rows([task], "rows")[task]["calls"] == 2


def test_the_table_has_every_row_with_its_floor_even_where_nothing_was_measured():
    lines = list(table(Findings(PLACES, ladder_rows(0.7))))
    head = lines[: lines.index("")]
    assert sum("not measured" in line for line in head) == 10
    assert [line.split(" | ")[-2:] for line in head if "LM calls" in line] == [
        ["3x", "5x |"],
        ["1.2x", "2x |"],
        ["2x", "4x |"],
    ]
    assert all(line.count("|") == 5 for line in head)


# Lanes


def test_a_compile_in_lanes_costs_what_its_calls_do_and_its_models_agree_as_far_as_is_said():
    done = run_task(LanesTask("lanes", "additive", 2, 0, effects=900, hardness=900, runs=35))
    assert done.msats == done.at(PRICES_MSATS) == sum(n * PRICES_MSATS[who] for who, n in done.calls.items())
    assert done.calls["premium"] == 2 * done.verified > 0
    assert done.calls["better"] >= 3 * (done.decided + done.verified)
    assert done.true > OWN_SCORE
    alike, apart = (models_of("additive", 2, effects, 0) for effects in (900, 0))
    known, lost = (agreement(models["premium"], models["cheap"]) for models in (alike, apart))
    assert lost < 0.5 < 0.75 < known


# The market


def traded(p50_ms, cpu_ms=1.0):
    return Found(100.0, p50_ms, 2 * p50_ms, dict.fromkeys(SIDES, cpu_ms))


def market_rows():
    """Two rounds; in the second everything takes longer, the model itself too."""
    places = [(trader, latency_ms, n) for trader in TRADERS for latency_ms in (0, 100) for n in (1, 16)]
    rows = {place: [traded(112.0, 4.0), traded(152.0, 6.0)] for place in places}
    direct = {(DIRECT, latency_ms, n): [traded(100.0), traded(130.0)] for latency_ms in (0, 100) for n in (1, 16)}
    return rows | direct


def test_what_is_added_is_the_difference_to_the_model_in_the_same_round():
    assert added_ms(market_rows(), (OURS, 100, 16), "p50_ms") == pytest.approx(17.0)


def test_every_floor_of_the_market_is_told_with_what_is_demanded():
    lines = list(floors(market_rows()))
    assert [line.split(" | ")[-1] for line in lines] == ["at least 100 |", *["below 30 ms |"] * 2, *["- |"] * 3]
    assert "17.0 ms" in lines[1]
    assert "1.00 (1.00 to 1.00)" in lines[-1]


def test_time_in_a_library_is_billed_to_the_part_that_called_it():
    sampler = Sampler()
    sampler.start()
    key, until_s = SecretKey.generate(), time.thread_time() + 0.2
    while time.thread_time() < until_s:
        key.sign(bytes(32))
    sampler.stop()
    shares = sampler.shares()["parts"]
    assert shares["sign"] > 0.5
    assert sum(shares.values()) == pytest.approx(1.0)


def test_bare_peers_trade_for_money_over_a_real_relay():
    with market_of(PAID, 0) as (relay, seller, common), buyer_of(PAID, 2, 8, common) as buyer:
        bought = buyer.ask("buy")
        assert bought["per_s"] > 0
        assert bought["p99_ms"] >= bought["p50_ms"] > 0
        assert min(bought["cpu_ms"], seller.ask()["cpu_s"], relay.ask()["cpu_s"]) > 0
