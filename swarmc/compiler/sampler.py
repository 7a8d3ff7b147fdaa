"""An Optuna sampler that the surrogate steers: study, storage, pictures and dashboard work as with any other."""

# ruff: noqa: ARG002 - the arguments of a sampler are Optuna's

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from swarmc.compiler.draws import Choice, Draw
from swarmc.compiler.surrogate import ORDER_DECIMALS, AdditiveLogistic, Priors

OUTCOMES = "outcomes"
"""Name of the trial attribute that holds the scores (0 to 1) by example, when a trial has several."""


MOST_DRAWS = 8
FIRST_STEPS = 8
FITS_A_DOUBLING = 50


class SurrogateSampler(optuna.samplers.BaseSampler):
    """Top-two Thompson sampling on the surrogate, for categorical parameters.

    Parameters whose names agree up to their last `/` are a group: a predictor. A finished trial
    counts as the scores in its attribute `outcomes` (example to score, 0 to 1), or, without one, as
    its value alone. Trials that a study brings along are read when it is first asked.

    Args:
        space: The parameters, groups together, in each group the demonstration sets last.
        seed: Of all its randomness.
        exploit: Chance that the best of the first draw is taken, not its strongest rival.
        priors: What is expected before anything is seen.

    Attributes:
        closed: Combinations that must not be chosen, as indices in the order of `space`.
        only: The combinations that may be chosen; `None` for all.
        model: What is believed. What is known before anything is seen must be told it before the first ask.
    """

    def __init__(
        self,
        space: Mapping[str, CategoricalDistribution],
        *,
        seed: int,
        exploit: float = 0.5,
        priors: Priors | None = None,
    ) -> None:
        groups: dict[str, list[int]] = {}
        self._places: dict[str, tuple[int, int]] = {}
        for name, distribution in space.items():
            group = groups.setdefault(name.rpartition("/")[0], [])
            self._places[name] = len(groups) - 1, len(group)
            group.append(len(distribution.choices))
        self._shut: dict[str, set[int]] = {name: set() for name in space}
        self.model = AdditiveLogistic(list(groups.values()), priors)
        self.closed: set[Choice] = set()
        self.only: set[Choice] | None = None
        self._space = dict(space)
        self._exploit = exploit
        self._rng = np.random.default_rng(seed)
        self._other = optuna.samplers.RandomSampler(seed)
        self._absorbed: set[int] = set()
        self._fitted = -1
        self._tried: dict[Choice, None] = {}

    def choice_of(self, params: Mapping[str, Any]) -> Choice:
        """The indices of parameter values."""
        return tuple(int(d.to_internal_repr(params[name])) for name, d in self._space.items())

    def params_of(self, choice: Choice) -> dict[str, object]:
        """The parameter values of indices."""
        return {name: d.choices[i] for (name, d), i in zip(self._space.items(), choice, strict=True)}

    def has_open(self) -> bool:
        """There is a combination left that may be chosen."""
        if self.only is not None:
            return not self.only <= self.closed
        return len(self.closed) < prod(len(d.choices) - len(self._shut[name]) for name, d in self._space.items())

    def shut(self, name: str, index: int) -> None:
        """Keep a place in parameter `name` for a value that does not exist yet; before the first ask."""
        self._shut[name].add(index)
        self.model.shut(*self._places[name], index)

    def open(self, name: str, index: int, parent: int) -> None:
        """Let a value in at its place: it was made from the value `parent`, and is expected to be worth as much."""
        self._shut[name].discard(index)
        self._refit()
        self.model.open(*self._places[name], index, parent)

    def imagine(self) -> Draw:
        """What everything is worth, in one sample of what is believed now."""
        self._refit()
        return self.model.draw(self._rng)

    def ranking(self, optimism: float = 0.0) -> list[tuple[Choice, float]]:
        """Combinations that were tried, best first, by posterior mean plus `optimism` standard deviations (logits).

        Of those that are equal but for rounding the first one tried comes first.
        """
        self._refit()
        tried = list(self._tried)
        if not tried:
            return []
        values = np.round(self.model.means(tried) + optimism * self.model.deviations(tried), ORDER_DECIMALS)
        return [(tried[i], float(values[i])) for i in np.argsort(-values, kind="stable")]

    def infer_relative_search_space(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
    ) -> dict[str, BaseDistribution]:
        return dict(self._space)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, object]:
        if self._fitted < 0:
            for past in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                self._absorb(past, past.value)
        self._refit(every=max(1, self.model.count // FITS_A_DOUBLING))
        choice = self._choose()
        return self.params_of(choice) if choice is not None else {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._other.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        if state == TrialState.COMPLETE and values:
            self._absorb(trial, values[0])

    def reseed_rng(self) -> None:
        self._rng = np.random.default_rng()
        self._other.reseed_rng()

    def _absorb(self, trial: FrozenTrial, value: float | None) -> None:
        if trial.number in self._absorbed or value is None or not set(self._space) <= set(trial.params):
            return
        self._absorbed.add(trial.number)
        choice = self.choice_of(trial.params)
        self._tried[choice] = None
        for example, score in (trial.user_attrs.get(OUTCOMES) or {f"trial {trial.number}": value}).items():
            self.model.observe(choice, example, min(max(float(score), 0.0), 1.0))

    def _refit(self, *, every: int = 1) -> None:
        """Fit when `every` more scores are in than at the last fit."""
        if self._fitted < 0 or self.model.count >= self._fitted + every:
            self.model.fit(FIRST_STEPS if self._fitted < 0 else 1)
            self._fitted = self.model.count

    def _choose(self) -> Choice | None:
        """The best of one draw, or the best of another draw that disagrees with it."""
        first_draw = self.model.draw(self._rng)
        first = first_draw.best(self.closed, self.only)
        if first is None or self._rng.random() < self._exploit:
            return first
        for _ in range(MOST_DRAWS):
            rival = self.model.draw(self._rng).best(self.closed, self.only)
            if rival != first:
                return rival
        return first_draw.best({*self.closed, first}, self.only) or first
