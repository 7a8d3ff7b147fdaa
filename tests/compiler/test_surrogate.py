"""The surrogate: finds effects that are there, grows with the sum of choices, is an Optuna sampler, is cheap."""

import math
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution

from swarmc.compiler.sampler import OUTCOMES, SurrogateSampler
from swarmc.compiler.surrogate import AdditiveLogistic, Priors

SPACE = {"a/instruction": CategoricalDistribution(range(6)), "a/demos": CategoricalDistribution(range(5))}
TWO = {**SPACE, "b/instruction": CategoricalDistribution(range(6)), "b/demos": CategoricalDistribution(range(5))}


def chance(params):
    good = sum(params[f"{name}/instruction"] == 3 for name in "ab" if f"{name}/instruction" in params)
    shown = sum(params[f"{name}/demos"] == 2 for name in "ab" if f"{name}/demos" in params)
    return 1 / (1 + math.exp(1.5 - 1.2 * good - 1.2 * shown))


def search(space, trials, seed=0, study=None):
    """Visits of 5 examples, scored by `chance`, through plain ask and tell."""
    sampler = SurrogateSampler(space, seed=seed)
    rng = np.random.default_rng(7)
    study = study or optuna.create_study(direction="maximize")
    study.sampler = sampler
    for _ in range(trials):
        trial = study.ask(space)
        outcomes = {str(i): float(rng.random() < chance(trial.params)) for i in rng.integers(0, 100, 5)}
        trial.set_user_attr(OUTCOMES, outcomes)
        study.tell(trial, sum(outcomes.values()) / len(outcomes))
    return sampler, study


@pytest.mark.parametrize(("space", "trials"), [(SPACE, 60), (TWO, 160)])
def test_the_best_choices_of_every_predictor_are_found(space, trials):
    sampler, _ = search(space, trials)
    best, _ = sampler.ranking()[0]
    assert best == (3, 2) * (len(space) // 2)


def test_the_same_seed_and_scores_ask_the_same_and_another_seed_does_not():
    asked = [[trial.params for trial in search(SPACE, 20, seed)[1].trials] for seed in (1, 1, 2)]
    assert asked[0] == asked[1] != asked[2]


def test_a_study_from_a_storage_is_continued_with_what_it_knows(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    search(SPACE, 30, study=optuna.create_study(direction="maximize", storage=storage, study_name="s"))
    sampler = SurrogateSampler(SPACE, seed=3)
    study = optuna.load_study(storage=storage, study_name="s", sampler=sampler)
    study.ask(SPACE)
    assert sampler.model.count == sum(len(trial.user_attrs[OUTCOMES]) for trial in study.trials[:-1])


def test_trials_without_outcomes_count_by_their_value_and_failed_ones_do_not_count():
    sampler = SurrogateSampler(SPACE, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.tell(study.ask(SPACE), 0.7)
    study.tell(study.ask(SPACE), state=optuna.trial.TrialState.FAIL)
    assert sampler.model.count == 1


def test_closed_combinations_are_not_chosen_and_only_those_allowed_are():
    sampler = SurrogateSampler(SPACE, seed=0)
    sampler.only, sampler.closed = {(1, 1), (2, 2)}, {(1, 1)}
    study = optuna.create_study(direction="maximize", sampler=sampler)
    assert study.ask(SPACE).params == {"a/instruction": 2, "a/demos": 2}
    sampler.closed.add((2, 2))
    assert not sampler.has_open()


def test_harder_examples_are_not_held_against_the_candidates_that_met_them():
    def gap(others):
        model = AdditiveLogistic([(7, 1)])
        for example in range(30):
            hard = example % 2
            model.observe((hard, 0), example, float(not hard))
            for other in range(2, 2 + others):
                model.observe((other, 0), example, float(not hard))
        model.fit(8)
        easy_met, hard_met = model.means([(0, 0), (1, 0)])
        return easy_met - hard_met

    assert gap(others=5) < 0.7 * gap(others=0)


def test_columns_grow_with_the_sum_of_the_choices():
    model = AdditiveLogistic([(20, 10)] * 4)
    model.observe((0,) * 8, "x", 1.0)
    model.fit()
    assert model.draw(np.random.default_rng(0)).best(set()) is not None
    assert len(model.deviations([(1,) * 8])) == 1


def test_seven_hundred_units_cost_less_than_five_milliseconds_each():
    began_s = time.process_time()
    search({name: CategoricalDistribution(range(13)) for name in SPACE}, 140)
    assert (time.process_time() - began_s) / 700 < 0.005


def test_fractions_are_scores_too():
    model = AdditiveLogistic([(2, 1)])
    for example in range(40):
        model.observe((0, 0), example, 0.3)
        model.observe((1, 0), example, 0.6)
    model.fit(8)
    low, high = model.means([(0, 0), (1, 0)])
    assert low < high


SEARCH_ELSEWHERE = """
import sys, numpy as np, optuna, hashlib
from optuna.distributions import CategoricalDistribution
from swarmc.compiler.sampler import OUTCOMES, SurrogateSampler
optuna.logging.set_verbosity(optuna.logging.ERROR)
space = {f"{p}/{k}": CategoricalDistribution(range(n)) for p in "ab" for k, n in (("instruction", 13), ("demos", 12))}
sampler = SurrogateSampler(space, seed=4)
sampler.shut("a/instruction", 12)
for at in range(8):
    sampler.model.expect(1, 0, at, at / 5 - 0.7, 0.3)
    sampler.model.expect_pair(1, (at, 11 - at), 0.3 - at / 9, 0.2)
study = optuna.create_study(direction="maximize", sampler=sampler)
for number in range(70):
    if number == 40:
        sampler.open("a/instruction", 12, sampler.ranking()[0][0][0])
    trial = study.ask(space)
    logit = sum(((at * 7 + i * 3) % 11 - 6) / 6 for i, at in enumerate(trial.params.values()))
    outcomes = {}
    for example in range(number % 50, number % 50 + 4):
        draw = hashlib.sha256(f"{trial.params}{example}".encode()).digest()[0] / 256
        outcomes[str(example)] = float(draw < 1 / (1 + 2.718281828 ** -logit))
    trial.set_user_attr(OUTCOMES, outcomes)
    study.tell(trial, sum(outcomes.values()) / 4)
for trial in study.trials:
    print(sorted(trial.params.items()))
print([choice for choice, _ in sampler.ranking()])
print([(one.key, round(1000 * one.mean), round(1000 * one.sd)) for one in sampler.model.learned()])
print({kind: round(1000 * spread) for kind, spread in sampler.model.spreads.items()}, sampler.model.kept)
"""
KERNELS = [
    {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_ICL AVX2 FMA3"},
    {"OPENBLAS_CORETYPE": "Nehalem"},
    {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2"},
    {"OPENBLAS_CORETYPE": "SkylakeX"},
    {"OPENBLAS_CORETYPE": "Zen"},
]


@pytest.mark.slow
def test_a_search_ends_the_same_whatever_the_machine_rounds():
    here = pathlib.Path(__file__).parents[2]
    # A core type that this machine cannot run, or that numpy's build lacks, is replaced by the nearest it can.
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SEARCH_ELSEWHERE],
            cwd=here,
            env={**os.environ, "PYTHONPATH": str(here), "OPENBLAS_NUM_THREADS": "1", **kernel},
            stdout=subprocess.PIPE,
        )
        for kernel in KERNELS
    ]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(KERNELS)
    assert len(said[0].splitlines()) == 73
    assert set(said) == {said[0]}


def scored_by(model, chances, units=400, seed=3):
    """Tell a model scores of a group's choices, as their chances have it."""
    rng = np.random.default_rng(seed)
    for unit in range(units):
        choice = tuple(int(rng.integers(size)) for size in model.sizes[0])
        model.observe(choice, unit % 60, float(rng.random() < chances[choice[0]]))
        if unit % 40 == 0:
            model.fit()
    model.fit(4)
    return model


def test_what_is_known_beforehand_decides_until_scores_say_otherwise():
    model = AdditiveLogistic([(4, 3)])
    model.expect(0, 0, 2, 1.0, 0.2)
    model.expect_pair(0, (2, 1), 0.4, 0.2)
    model.fit()
    known, plain_pair, unknown = model.means([(2, 1), (2, 0), (1, 1)])
    assert known == pytest.approx(Priors().kept * 1.4)
    assert (plain_pair, unknown) == pytest.approx((Priors().kept, 0.0))
    scored_by(model, [0.6, 0.6, 0.2, 0.6])
    assert model.means([(2, 0)])[0] < model.means([(1, 0)])[0]


def test_a_study_that_no_longer_holds_loses_its_weight_and_one_that_holds_keeps_it():
    def drift(sign):
        model = AdditiveLogistic([(6, 4)])
        for index in range(6):
            model.expect(0, 0, index, sign * (1.2 if index < 3 else -1.2), 0.15)
        scored_by(model, [0.75] * 3 + [0.25] * 3)
        return model.spreads["drift"]

    assert drift(1) < Priors().drift < 2 * Priors().drift < drift(-1)


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_how_much_of_the_earlier_effects_is_left_is_learned(part):
    effects = (1.2, -1.2, 0.8, -0.8, 0.4, -0.4)
    model = AdditiveLogistic([(6, 4)], Priors(kept_sd=0.5))
    for index, effect in enumerate(effects):
        model.expect(0, 0, index, effect, 0.15)
    scored_by(model, [1 / (1 + math.exp(-part * effect)) for effect in effects], units=1_200)
    assert model.kept == pytest.approx(part, abs=0.25)


def test_what_was_known_of_choices_that_nobody_scored_says_nothing_of_how_much_is_left():
    model = AdditiveLogistic([(6, 4)])
    for index in range(4):
        model.expect(0, 1, index, 0.0, 0.1)
    model.expect(0, 0, 5, 2.0, 0.1)
    for example in range(40):
        model.observe((0, example % 4), example, float(example % 2))
        model.fit()
    assert model.kept == Priors().kept
    assert model.means([(5, 0)])[0] - model.means([(0, 0)])[0] > 1


def test_a_written_choice_is_closed_until_it_is_there_and_then_worth_what_its_parent_is():
    sampler = SurrogateSampler(SPACE, seed=0)
    sampler.shut("a/instruction", 5)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    rng = np.random.default_rng(1)
    for _ in range(50):
        trial = study.ask(SPACE)
        assert trial.params["a/instruction"] != 5
        study.tell(trial, float(rng.random() < chance(trial.params)))
    sampler.open("a/instruction", 5, 3)
    parent, child = sampler.model.means([(3, 4), (5, 4)])
    assert child == pytest.approx(parent, abs=0.5)
    assert sampler.model.deviations([(5, 4)])[0] > sampler.model.deviations([(3, 4)])[0]
    assert 5 in {study.ask(SPACE).params["a/instruction"] for _ in range(40)}


@given(st.sets(st.integers(0, 5), max_size=5), st.sets(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=12))
def test_nothing_shut_or_closed_is_ever_chosen(shut, closed):
    sampler = SurrogateSampler(SPACE, seed=0)
    for index in sorted(shut):
        sampler.shut("a/instruction", index)
    sampler.closed = {choice for choice in closed if choice[0] not in shut}
    study = optuna.create_study(direction="maximize", sampler=sampler)
    assert sampler.has_open()
    for _ in range(5):
        choice = sampler.choice_of(study.ask(SPACE).params)
        assert choice[0] not in shut
        assert choice not in closed


def test_effects_that_are_the_same_are_ranked_in_the_order_of_trying():
    sampler = SurrogateSampler(SPACE, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    order = [4, 1, 5, 0]
    for index in order:
        study.enqueue_trial({"a/instruction": index, "a/demos": index % 5})
        trial = study.ask(SPACE)
        trial.set_user_attr(OUTCOMES, {"x": 1.0, "y": 0.0, "z": 1.0})
        study.tell(trial, 2 / 3)
    ranked = [choice for choice, _ in sampler.ranking()]
    assert ranked[-2:] == [(5, 0), (0, 0)] or ranked[:2] == [(5, 0), (0, 0)]
    assert [choice[0] for choice in ranked if choice[1]] == [4, 1]
