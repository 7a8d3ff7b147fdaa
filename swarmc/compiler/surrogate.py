"""The surrogate: what every choice adds to the chance of success, and what to try next because of it.

The chance that a candidate solves an example is the logistic function of a sum: a constant, an
effect of each predictor's instruction and of its demonstration set, their interaction, an effect of
the whole combination (with several predictors), and how easy the example is. All effects have
normal priors, whose spreads are learned as the search goes; the posterior is Laplace's. Effects are
kept for what was tried, so the model grows with the sum of the predictors' choices, not with their
product. The next candidate is chosen by top-two Thompson sampling (Russo 2016).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Choice = tuple[int, ...]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Priors:
    """Spreads (standard deviations, in logits) that are expected before anything is seen.

    Attributes:
        level: Of the constant.
        none: Of the place of joint effects that are not told apart.
        instruction: Of a choice's own effect, for every factor of a group but the last.
        demos: Of a choice's own effect, for the last factor of a group.
        pair: Of the interaction within a group.
        combination: Of a whole combination of several groups.
        example: Of the examples' difficulty.
        weight: How many effects the expectation counts for, when a spread is learned.
        curiosity: How much of its spread an untried interaction shows in a draw: with all of it, the best of
            many untried ones looks better than anything that was tried.
    """

    level: float = 1.5
    none: float = 1e-3
    instruction: float = 0.6
    demos: float = 0.6
    pair: float = 0.35
    combination: float = 0.25
    example: float = 2.0
    weight: float = 6.0
    curiosity: float = 0.35

    def of(self, kind: str) -> float:
        """The spread of one kind of effect."""
        return float(getattr(self, kind))


TOP_CELLS, MANY_GROUPS = 3, 5
FEW_SCORES = 4
CHEAP_COLUMNS = 140
LEVEL, NONE = 0, 1
KINDS = ("level", "none", "instruction", "demos", "pair", "combination")


@dataclass
class _Joint:
    """Effects of one kind that several choices have together: how often each was scored, and its column."""

    kind: str
    counts: dict[Choice, int] = field(default_factory=dict)
    columns: dict[Choice, int] = field(default_factory=dict)


class AdditiveLogistic:
    """The model, fitted by Newton's method from where the last fit ended.

    Args:
        sizes: How many choices each factor has, by group: one group a predictor, `(instructions,
            demonstration sets)` each.
        priors: What is expected before anything is seen.
    """

    def __init__(self, sizes: Sequence[Sequence[int]], priors: Priors | None = None) -> None:
        self.sizes = tuple(tuple(group) for group in sizes)
        self._priors = priors or Priors()
        self._kinds: list[int] = []
        self._new_column("level")
        self._new_column("none")
        self._main = [[self._factor(group, f) for f in range(len(group))] for group in self.sizes]
        self._pairs = [_Joint("pair") for _ in self.sizes]
        self._combinations = _Joint("combination")
        self._choices: list[Choice] = []
        self._examples: list[int] = []
        self._scores: list[float] = []
        self._example_index: dict[Any, int] = {}
        self.spreads = {kind: self._priors.of(kind) for kind in (*KINDS, "example")}
        self._effects: Floats = np.zeros(0)
        self._ease: Floats = np.zeros(0)
        self._covariance: Floats = np.zeros((0, 0))
        self._ease_variance: Floats = np.zeros(0)
        self._root: Floats | None = None

    def _factor(self, group: Sequence[int], f: int) -> NDArray[np.intp]:
        """The columns of one factor's choices."""
        kind = "demos" if f == len(group) - 1 and f > 0 else "instruction"
        return np.array([self._new_column(kind) for _ in range(group[f])], dtype=np.intp)

    @property
    def count(self) -> int:
        """How many scores it has seen."""
        return len(self._scores)

    def observe(self, choice: Choice, example: object, score: float) -> None:
        """One score, 0 to 1, of a combination (all groups' factors in order) on an example."""
        self._choices.append(choice)
        for joint, key in self._joint(choice):
            joint.counts[key] = joint.counts.get(key, 0) + 1
        self._examples.append(self._example_index.setdefault(example, len(self._example_index)))
        self._scores.append(score)

    def fit(self, steps: int = 1) -> None:
        """Posterior mode and covariance; a few Newton steps from the last fit, then the spreads."""
        self._promote()
        self._root = None
        columns, examples = len(self._kinds), len(self._example_index)
        self._effects = np.concatenate([self._effects, np.zeros(columns - len(self._effects))])
        self._ease = np.concatenate([self._ease, np.zeros(examples - len(self._ease))])
        if not self._scores:
            self._covariance = np.diag([self.spreads[KINDS[kind]] ** 2 for kind in self._kinds])
            return
        features = {choice: self._features(choice) for choice in dict.fromkeys(self._choices)}
        rows = np.array([features[choice] for choice in self._choices], dtype=np.intp)
        where, scores = np.array(self._examples, dtype=np.intp), np.array(self._scores)
        for _ in range(steps):
            self._newton(rows, where, scores)
        self._learn_spreads()

    def _newton(self, rows: NDArray[np.intp], where: NDArray[np.intp], scores: Floats) -> None:
        """One step; the examples' block is diagonal and is eliminated first."""
        columns, examples = len(self._effects), len(self._ease)
        precision = np.array([1 / self.spreads[KINDS[kind]] ** 2 for kind in self._kinds])
        ease_precision = 1 / self.spreads["example"] ** 2
        chance = 1 / (1 + np.exp(-np.clip(self._effects[rows].sum(1) + self._ease[where], -30, 30)))
        weight, residual = np.maximum(chance * (1 - chance), 1e-6), scores - chance
        width = rows.shape[1]
        gradient = np.bincount(rows.ravel(), np.repeat(residual, width), columns) - precision * self._effects
        ease_gradient = np.bincount(where, residual, examples) - ease_precision * self._ease
        pairs = (rows[:, :, None] * columns + rows[:, None, :]).ravel()
        inner = np.bincount(pairs, np.repeat(weight, width * width), columns * columns).reshape(columns, columns)
        inner[np.diag_indices(columns)] += precision
        crossed = (where[:, None] * columns + rows).ravel()
        cross = np.bincount(crossed, np.repeat(weight, width), examples * columns).reshape(examples, columns)
        diagonal = np.bincount(where, weight, examples) + ease_precision
        scaled = cross / diagonal[:, None]
        self._covariance = np.linalg.inv(inner - cross.T @ scaled)
        step = self._covariance @ (gradient - scaled.T @ ease_gradient)
        step *= min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-9))
        self._effects = self._effects + step
        self._ease = self._ease + (ease_gradient - cross @ step) / diagonal
        self._ease_variance = 1 / diagonal

    def _learn_spreads(self) -> None:
        """Expectation-maximisation: the mean square of a kind's effects, tempered by what was expected."""
        weight, kinds, variances = self._priors.weight, np.array(self._kinds), np.diag(self._covariance)
        for number, kind in enumerate(KINDS):
            if kind in ("level", "none") or not (mask := kinds == number).any():
                continue
            square = float((self._effects[mask] ** 2 + variances[mask]).sum())
            self.spreads[kind] = float(np.sqrt((weight * self._priors.of(kind) ** 2 + square) / (weight + mask.sum())))
        square = float((self._ease**2 + self._ease_variance).sum())
        expected = weight * self._priors.example**2
        self.spreads["example"] = float(np.sqrt((expected + square) / (weight + len(self._ease))))

    def means(self, choices: Sequence[Choice]) -> Floats:
        """Posterior mean of the logit of each combination, at an example of mean difficulty."""
        return np.array([self._effects[self._features(choice)].sum() for choice in choices])

    def deviations(self, choices: Sequence[Choice]) -> Floats:
        """Posterior standard deviation of the same."""
        return np.array([np.sqrt(self._variance(choice)) for choice in choices])

    def draw(self, rng: np.random.Generator) -> "Draw":
        """All effects as one sample from the posterior has them; those of untried pairs from their prior."""
        root = self._root
        if root is None:
            root = self._root = np.linalg.cholesky(self._covariance + 1e-9 * np.eye(len(self._effects)))
        effects = self._effects + root @ rng.standard_normal(len(self._effects))
        tables = [self._table(g, effects, rng) for g in range(len(self.sizes))]
        return Draw(tables, {choice: float(effects[at]) for choice, at in self._combinations.columns.items()})

    def _table(self, g: int, effects: Floats, rng: np.random.Generator) -> Floats:
        """What every combination of one group's choices adds."""
        group = self.sizes[g]
        total = np.zeros(group)
        for f in range(len(group)):
            shape = [-1 if i == f else 1 for i in range(len(group))]
            total = total + effects[self._main[g][f]].reshape(shape)
        if len(group) > 1:
            pairs = self._priors.curiosity * self.spreads["pair"] * rng.standard_normal(group)
            for cell, at in self._pairs[g].columns.items():
                pairs[cell] = effects[at]
            total = total + pairs
        return total

    def _variance(self, choice: Choice) -> float:
        found = self._features(choice)
        missing = sum(self.spreads[joint.kind] ** 2 for joint, key in self._joint(choice) if key not in joint.columns)
        return float(self._covariance[np.ix_(found, found)].sum()) + missing

    def _features(self, choice: Choice) -> list[int]:
        """The columns of a combination's effects; joint effects that have none are left at `NONE`."""
        found, at = [LEVEL], 0
        for factors in self._main:
            for columns in factors:
                found.append(int(columns[choice[at]]))
                at += 1
        return found + [joint.columns.get(key, NONE) for joint, key in self._joint(choice)]

    def _joint(self, choice: Choice) -> list[tuple["_Joint", Choice]]:
        """The effects that several choices have together, each with the key of this combination there."""
        joint, at = [], 0
        for g, group in enumerate(self.sizes):
            if len(group) > 1:
                joint.append((self._pairs[g], choice[at : at + len(group)]))
            at += len(group)
        if len(self.sizes) > 1:
            joint.append((self._combinations, choice))
        return joint

    def _promote(self) -> None:
        """Give joint effects columns of their own: all as long as that is cheap, then those scored more often."""
        for joint in (*self._pairs, self._combinations):
            for key in [key for key in joint.counts if key not in joint.columns]:
                if len(self._kinds) >= CHEAP_COLUMNS and joint.counts[key] <= FEW_SCORES:
                    continue
                joint.columns[key] = self._new_column(joint.kind)

    def _new_column(self, kind: str) -> int:
        self._kinds.append(KINDS.index(kind))
        return len(self._kinds) - 1


@dataclass(frozen=True)
class Draw:
    """One sample of all effects.

    Attributes:
        tables: By group, what every combination of its choices adds.
        tried: The effects of whole combinations that were tried; of others they are taken as 0.
    """

    tables: Sequence[Floats]
    tried: Mapping[Choice, float]

    def value(self, choice: Choice) -> float:
        """The logit of a combination, but for the constant."""
        total, at = self.tried.get(choice, 0.0), 0
        for table in self.tables:
            total += float(table[choice[at : at + table.ndim]])
            at += table.ndim
        return total

    def best(self, closed: Collection[Choice], only: Collection[Choice] | None = None) -> Choice | None:
        """The combination that is best in this sample, of `only` or of all, without those `closed`."""
        if only is not None:
            open_ones: Iterable[Choice] = only
        elif len(self.tables) == 1:
            open_ones = _top_cells(self.tables[0], len(closed) + 1)
        else:
            tops = [_top_cells(table, TOP_CELLS if len(self.tables) < MANY_GROUPS else 2) for table in self.tables]
            open_ones = chain((tuple(chain.from_iterable(cells)) for cells in product(*tops)), self.tried)
        return max((choice for choice in open_ones if choice not in closed), key=self.value, default=None)


def _top_cells(table: Floats, count: int) -> list[Choice]:
    """The indices of a table's highest values."""
    order = np.argsort(-table, axis=None, kind="stable")[:count]
    return [tuple(int(i) for i in cell) for cell in zip(*np.unravel_index(order, table.shape), strict=True)]
