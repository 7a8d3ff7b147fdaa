"""The surrogate: what every choice adds to the chance of success, and what to try next because of it.

The chance that a candidate solves an example is the logistic function of a sum: a constant, an
effect of each predictor's instruction and of its demonstration set, their interaction, an effect of
the whole combination (with several predictors), and how easy the example is. All effects have
normal priors, whose spreads are learned as the search goes; the posterior is Laplace's. Effects are
kept for what was tried, so the model grows with the sum of the predictors' choices, not with their
product. The next candidate is chosen by top-two Thompson sampling (Russo 2016).

What is known of an effect beforehand (mean and standard deviation, from an earlier search or from
the instruction that it was written from) is its prior, widened by a spread that is learned like the
others: how much such effects turn out to have changed. Of an effect that an earlier search knew only
a part is expected again, because what was found best then was lucky in part, and effects that have
changed lie nearer to nothing; which part, is learned as well.

Machines round differently in the last bits. So nothing is decided by them: what carries over from
fit to fit and what is ordered is rounded first, far above that noise, and ties go to the earlier.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarmc.compiler.draws import DECIMALS, Choice, Draw, Floats


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
        drift: Of the change of effects that an earlier search knew.
        kept: No spread: the part of such an effect that is expected again.
        kept_sd: How far that part may be from it.
        child: Of the difference between an instruction and the one that it was written from.
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
    drift: float = 0.3
    kept: float = 0.8
    kept_sd: float = 0.2
    child: float = 0.4
    weight: float = 6.0
    curiosity: float = 0.35

    def of(self, kind: str) -> float:
        """The spread of one kind of effect."""
        return float(getattr(self, kind))


FEW_SCORES = 4
CHEAP_COLUMNS = 140
LEVEL, NONE = 0, 1
KINDS = ("level", "none", "instruction", "demos", "pair", "combination", "drift", "child")
KNOWN = ("drift", "child")
ORDER_DECIMALS = 6


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
        self._expected: list[float] = []
        self._known: list[float] = []
        self._former: dict[int, tuple[float, float]] = {}
        self._shut: set[int] = set()
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
        self.kept = self._priors.kept
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
        self._effects = np.concatenate([self._effects, self._expected[len(self._effects) :]])
        self._ease = np.concatenate([self._ease, np.zeros(examples - len(self._ease))])
        if not self._scores:
            self._covariance = np.diag(self._prior_variances())
            return
        rows = self._rows()
        where, scores = np.array(self._examples, dtype=np.intp), np.array(self._scores)
        for _ in range(steps):
            self._newton(rows, where, scores)
        scored = np.bincount(rows.ravel(), minlength=columns) > 0
        self._learn_kept(scored)
        self._learn_spreads(scored)

    def _newton(self, rows: NDArray[np.intp], where: NDArray[np.intp], scores: Floats) -> None:
        """One step; the examples' block is diagonal and is eliminated first."""
        columns, examples = len(self._effects), len(self._ease)
        precision = 1 / self._prior_variances()
        ease_precision = 1 / self.spreads["example"] ** 2
        chance = 1 / (1 + np.exp(-np.clip(self._effects[rows].sum(1) + self._ease[where], -30, 30)))
        weight, residual = np.maximum(chance * (1 - chance), 1e-6), scores - chance
        width = rows.shape[1]
        gradient = np.bincount(rows.ravel(), np.repeat(residual, width), columns)
        gradient -= precision * (self._effects - self._expected)
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
        self._effects = np.round(self._effects + step, DECIMALS)
        self._ease = np.round(self._ease + (ease_gradient - cross @ step) / diagonal, DECIMALS)
        self._ease_variance = 1 / diagonal

    def _prior_variances(self) -> Floats:
        """By column, of what is expected: the kind's spread, wider by what was not known exactly."""
        spreads = np.array([self.spreads[kind] for kind in KINDS])
        return spreads[self._kinds] ** 2 + np.array(self._known)

    def _learn_kept(self, scored: NDArray[np.bool_]) -> None:
        """The regression of effects on what they were, tempered by what was expected of it."""
        columns = [column for column in self._former if scored[column]]
        if not columns:
            return
        means, variances = np.array([self._former[column] for column in columns]).T
        weights = means / (self.spreads["drift"] ** 2 + self.kept**2 * variances)
        certainty = self._priors.kept_sd**-2
        seen = self._priors.kept * certainty + float((weights * self._effects[columns]).sum())
        self.kept = round(min(max(seen / (certainty + float((weights * means).sum())), 0.0), 1.0), DECIMALS)
        for column, (mean, variance) in self._former.items():
            self._expected[column], self._known[column] = self.kept * mean, self.kept**2 * variance

    def _learn_spreads(self, scored: NDArray[np.bool_]) -> None:
        """Expectation-maximisation: the mean square of a kind's effects, tempered by what was expected."""
        weight, kinds, known = self._priors.weight, np.array(self._kinds), np.array(self._known)
        squares = (self._effects - self._expected) ** 2 + np.diag(self._covariance)
        for number, kind in enumerate(KINDS):
            mask = kinds == number
            if kind in KNOWN:
                mask &= scored
            if kind in ("level", "none") or not mask.any():
                continue
            spread = self.spreads[kind] ** 2
            # Of a deviation from what was known, the part that is change and not what was unknown then.
            share = spread / (spread + known[mask])
            square = float((share**2 * squares[mask] + known[mask] * share).sum())
            self._set_spread(kind, (weight * self._priors.of(kind) ** 2 + square) / (weight + mask.sum()))
        square = float((self._ease**2 + self._ease_variance).sum())
        expected = weight * self._priors.example**2
        self._set_spread("example", (expected + square) / (weight + len(self._ease)))

    def _set_spread(self, kind: str, variance: float) -> None:
        self.spreads[kind] = round(float(np.sqrt(variance)), DECIMALS)

    def expect_level(self, mean: float) -> None:
        """What the constant was; how far it has moved since is as open as it ever was."""
        self._expected[LEVEL] = mean

    def expect(self, group: int, factor: int, index: int, mean: float, sd: float) -> None:
        """What an earlier search knew of a choice's own effect, in logits."""
        self._expect(int(self._main[group][factor][index]), mean, sd)

    def expect_pair(self, group: int, cell: Choice, mean: float, sd: float) -> None:
        """What an earlier search knew of what a group's choices add together."""
        column = self._pairs[group].columns.setdefault(cell, len(self._kinds))
        if column == len(self._kinds):
            self._new_column("pair")
        self._expect(column, mean, sd)

    def shut(self, group: int, factor: int, index: int) -> None:
        """Keep a place for a choice that does not exist yet."""
        column = int(self._main[group][factor][index])
        self._shut.add(column)
        self._know(column, "none", 0.0, 0.0)

    def open(self, group: int, factor: int, index: int, parent: int) -> None:
        """Let a choice in that was made from another one: it is expected to be worth the same."""
        column, origin = (int(self._main[group][factor][i]) for i in (index, parent))
        self._shut.discard(column)
        self.fit()
        self._know(column, "child", float(self._effects[origin]), float(np.sqrt(self._covariance[origin, origin])))
        self.fit()

    def _expect(self, column: int, mean: float, sd: float) -> None:
        self._former[column] = mean, sd**2
        self._know(column, "drift", self.kept * mean, self.kept * sd)

    def _know(self, column: int, kind: str, mean: float, sd: float) -> None:
        self._kinds[column] = KINDS.index(kind)
        self._expected[column], self._known[column] = round(mean, DECIMALS), round(sd**2, DECIMALS)
        if column < len(self._effects):
            self._effects[column] = self._expected[column]

    def learned(self) -> list["Learned"]:
        """What is known of every choice and pair that was scored now or known before, in order of their columns."""
        runs = np.bincount(self._rows().ravel(), minlength=len(self._kinds)) if self._scores else None
        found = []
        for g, factors in enumerate(self._main):
            own: list[tuple[tuple[int | None, ...], int]] = [
                (tuple(i if at == f else None for at in range(len(factors))), int(column))
                for f, columns in enumerate(factors)
                for i, column in enumerate(columns)
            ]
            for key, column in (*own, *self._pairs[g].columns.items()):
                count = int(runs[column]) if runs is not None else 0
                if count or (self._kinds[column] == KINDS.index("drift")):
                    sd = float(np.sqrt(self._covariance[column, column]))
                    found.append(Learned(g, tuple(key), float(self._effects[column]), sd, count))
        return found

    @property
    def level(self) -> float:
        """The constant's posterior mean."""
        return float(self._effects[LEVEL])

    def _rows(self) -> NDArray[np.intp]:
        """By score, the columns that add up to it."""
        features = {choice: self._features(choice) for choice in dict.fromkeys(self._choices)}
        return np.array([features[choice] for choice in self._choices], dtype=np.intp)

    def means(self, choices: Sequence[Choice]) -> Floats:
        """Posterior mean of the logit of each combination, at an example of mean difficulty."""
        return np.array([self._effects[self._features(choice)].sum() for choice in choices])

    def deviations(self, choices: Sequence[Choice]) -> Floats:
        """Posterior standard deviation of the same."""
        return np.array([np.sqrt(self._variance(choice)) for choice in choices])

    def draw(self, rng: np.random.Generator) -> Draw:
        """All effects as one sample from the posterior has them; those of untried pairs from their prior."""
        root = self._root
        if root is None:
            root = self._root = np.linalg.cholesky(self._covariance + 1e-9 * np.eye(len(self._effects)))
        effects = np.round(self._effects + root @ rng.standard_normal(len(self._effects)), DECIMALS)
        effects[list(self._shut)] = -np.inf
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
        self._expected.append(0.0)
        self._known.append(0.0)
        return len(self._kinds) - 1


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of one effect.

    Attributes:
        group: Whose.
        key: By factor of the group the choice's index, or nothing where the effect is not of that factor.
        mean: Posterior mean, in logits.
        sd: Posterior standard deviation.
        runs: Scores that had it.
    """

    group: int
    key: tuple[int | None, ...]
    mean: float
    sd: float
    runs: int
