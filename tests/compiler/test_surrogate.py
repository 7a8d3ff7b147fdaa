"""The surrogate: finds effects that are there, grows with the sum of choices, is an Optuna sampler, is cheap."""

import math
import time

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from swarmc.compiler.sampler import OUTCOMES, SurrogateSampler
from swarmc.compiler.surrogate import AdditiveLogistic

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
