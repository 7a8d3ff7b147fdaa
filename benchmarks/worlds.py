"""Hidden worlds for search benchmarks: what every prompt is worth, known without noise.

A world is tickets in eight classes and a model whose chance of the right answer depends on the
prompt. An instruction counts by the rules it names (`Rule g07.`): 24 general ones, of which about a
third help, and 16 that help one class. Demonstrations count by number, hidden quality and whether
the ticket's class is among them. With `sigmoid(x)` the logistic function, the chance is

    p = .02 + .96 * sigmoid(base + instruction[class] + demonstrations[class] + extra - difficulty)

`difficulty` is normal (sd 1.7) per ticket; `base` is set so that the program's own text scores .52.
Whether an answer is right is decided by one normal draw per ticket and one per (prompt, ticket),
correlated .6, so that prompts fail on the same tickets. Below temperature .5 an answer is a function
of its prompt.

Families (`extra`, and how parts combine):
    additive      nothing: what an additive model assumes
    interaction   a normal draw (sd 1) for every pair of instruction and demonstration set
    nonadditive   pairs of rules help or hurt each other, and the weaker of the two parts
                  (instruction, demonstrations) weighs four times as much as the stronger one
    two           two predictors, ticket -> topic and (ticket, topic) -> label, each with rules of
                  its own; a wrong topic costs 2 logits; only the label is scored

Worlds with even numbers are for tuning, those with odd numbers for reporting. The proposer's skill
(the chance that a rule it names is drawn from the helpful ones) goes through 0, .15 and .3.

`changed(world, r)` is the same task some time later, under another model and with other tickets:
every hidden weight is `mean + r * (w - mean) + sqrt(1 - r^2) * (fresh - mean)`, `mean` being the
weight's expectation over worlds and `fresh` another draw of it, so that old and new weights are
correlated r and equally spread. Its tickets to compile with, those held out and their difficulties
are fresh; the old tickets are still known, because earlier demonstrations show them.
"""

import hashlib
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

FAMILIES = ("additive", "interaction", "nonadditive", "two")
LABELS = ("billing", "login", "shipping", "device", "refund", "privacy", "outage", "other")
TOPICS = ("money", "access", "goods", "service")
RULES = tuple([f"g{i:02}" for i in range(24)] + [f"s{i:02}" for i in range(16)])
GIVEN, HELD_OUT = 402, 2_000
OWN_SCORE = 0.52
CORRELATION = 0.6
MEAN_GENERAL, MEAN_SPECIAL = 0.0175, 1.15
SKILLS = (0.0, 0.15, 0.3)
WORDS = ("my", "the", "was", "with", "has", "please", "not", "again", "today", "still", "parcel", "card", "screen")

TICKET = re.compile(r"\bT(\d{5})\b")
RULE = re.compile(r"\b([gs]\d\d)\b")
NORMAL = NormalDist()


@dataclass(frozen=True)
class Shown:
    """What a prompt shows the model of one step: the rules named, and the demonstrations (ticket, right or not)."""

    rules: frozenset[str]
    demos: tuple[tuple[int, bool], ...]


class World:
    """One world.

    Args:
        family: One of `FAMILIES`.
        number: Which of the family.
        name: What its draws come from, where that is not family and number.

    Attributes:
        given: The tickets that an optimizer may use.
    """

    def __init__(self, family: str, number: int, name: str = "") -> None:
        self.name = name or f"{family}-{number}"
        self.family = family
        self.number = number
        self.given = range(GIVEN)
        self._pasts: tuple[tuple[str, float], ...] = ((self.name, 1.0),)
        self.skill = SKILLS[number // 2 % len(SKILLS)]
        self.steps = ("topic", "label") if family == "two" else ("label",)
        rng = random.Random(f"world:{self.name}")
        self.labels = np.array([rng.randrange(8) for _ in range(GIVEN + HELD_OUT)])
        self._difficulty = np.array(
            [[rng.gauss(0, 1.7 if s == 0 else 1.2) for _ in self.labels] for s in self.steps_range]
        )
        self._weights = [_weights(rng) for _ in self.steps_range]
        self._pairs = [_pairs(rng) for _ in self.steps_range]
        self._quality = [{i: rng.gauss(0, 0.35) for i in range(GIVEN)} for _ in self.steps_range]
        self.texts = [f"T{i:05} {' '.join(rng.choice(WORDS) for _ in range(6))}" for i in range(len(self.labels))]
        self._base = 0.0
        self._set_base()

    def _set_base(self) -> None:
        own = [Shown(frozenset(), ())] * len(self.steps)
        self._base = _bisect(lambda base: self._own_score(own, base), OWN_SCORE)

    def come_from(self, past: "World", correlation: float) -> None:
        """Let this world be what `past` became; see `changed`."""
        keep, fresh = correlation, math.sqrt(1 - correlation**2)
        for step in self.steps_range:
            (old_general, old_special), (general, special) = past._weights[step], self._weights[step]
            for rule in general:
                general[rule] = _mixed(old_general[rule], general[rule], correlation, MEAN_GENERAL)
            for rule, (label, weight) in special.items():
                special[rule] = label, _mixed(old_special[rule][1], weight, correlation, MEAN_SPECIAL)
            pairs = {pair: keep * weight for pair, weight in past._pairs[step].items()}
            for pair, weight in self._pairs[step].items():
                pairs[pair] = pairs.get(pair, 0.0) + fresh * weight
            self._pairs[step] = pairs
            old, new = past._quality[step], self._quality[step]
            moved = {i + GIVEN + HELD_OUT: quality for i, quality in new.items()}
            self._quality[step] = {i: keep * old[i] + fresh * new[i] for i in old} | moved
        self._pasts = (*((name, keep * share) for name, share in past._pasts), (self.name, fresh))
        self._append_given(past)
        self._set_base()

    def _append_given(self, past: "World") -> None:
        """Put the old given tickets where the new ones were, and the new ones behind those held out."""
        new, old = slice(0, GIVEN), past.labels[:GIVEN]
        self.labels = np.concatenate([old, self.labels[GIVEN:], self.labels[new]])
        hardness = self._difficulty
        self._difficulty = np.concatenate([past._difficulty[:, new], hardness[:, GIVEN:], hardness[:, new]], axis=1)
        self.given = range(GIVEN + HELD_OUT, len(self.labels))
        fresh = [f"T{i:05}{text[6:]}" for i, text in zip(self.given, self.texts[new], strict=True)]
        self.texts = [*past.texts[:GIVEN], *self.texts[GIVEN:], *fresh]

    @property
    def steps_range(self) -> range:
        return range(len(self.steps))

    def chances(self, prompt: Sequence[Shown], tickets: np.ndarray | None = None) -> np.ndarray:
        """The chance that the label is right, for each ticket (default: those held out)."""
        where = np.arange(GIVEN, GIVEN + HELD_OUT) if tickets is None else tickets
        if self.family != "two":
            return self._chance(0, prompt[0], where, 0.0)
        topic = self._chance(0, prompt[0], where, 0.0)
        return topic * self._chance(1, prompt[1], where, 0.0) + (1 - topic) * self._chance(1, prompt[1], where, -2.0)

    def true_score(self, prompt: Sequence[Shown]) -> float:
        """Mean chance over the held-out tickets."""
        return float(self.chances(prompt).mean())

    def is_right(self, step: int, shown: Shown, text_key: str, ticket: int, penalty: float) -> bool:
        """Whether the model answers this prompt right."""
        p = float(self._chance(step, shown, np.array([ticket]), penalty)[0])
        shared, own = normal_of(self.name, "ticket", step, ticket), normal_of(self.name, text_key, step, ticket)
        draw = math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * own
        return NORMAL.cdf(draw) < p

    def fresh_rules(self, rng: random.Random, step: int) -> list[str]:
        """One to five rules, as a proposer of this world's skill would draw them."""
        general = self._weights[step][0]
        helpful = [rule for rule in RULES if rule.startswith("s") or general[rule] > 0]
        count = rng.randint(1, 5)
        return [rng.choice(helpful) if rng.random() < self.skill else rng.choice(RULES) for _ in range(count)]

    def child_rules(self, rng: random.Random, step: int, parent: Iterable[str], failing: Sequence[str]) -> list[str]:
        """A parent's rules, changed as a reflection on failing labels would change them."""
        rules = sorted(set(parent))
        wanted = [r for r, (label, _) in self._weights[step][1].items() if LABELS[label] in failing and r not in rules]
        if wanted and rng.random() < 0.55:
            rules.append(rng.choice(wanted))
        if rng.random() < 0.5:
            rules += self.fresh_rules(rng, step)[:1]
        if len(rules) > 1 and rng.random() < 0.3:
            rules.remove(rng.choice(rules))
        return rules

    def _own_score(self, own: Sequence[Shown], base: float) -> float:
        self._base = base
        self._profile.cache_clear()
        return self.true_score(own)

    def _chance(self, step: int, shown: Shown, where: np.ndarray, penalty: float) -> np.ndarray:
        logit = self._profile(step, shown)[self.labels[where]] + penalty - self._difficulty[step][where]
        return 0.02 + 0.96 / (1 + np.exp(-logit))

    @lru_cache(maxsize=4_096)  # noqa: B019 - worlds live as long as the benchmark
    def _profile(self, step: int, shown: Shown) -> np.ndarray:
        """The logit by class, without the ticket's difficulty."""
        said, demos = self._instruction(step, shown), self._demonstrations(step, shown)
        if self.family == "nonadditive":
            low, high = np.minimum(said, demos), np.maximum(said, demos)
            return self._base + 1.6 * low + 0.4 * high
        extra = 0.0
        if self.family == "interaction":
            pair = ("pair", *sorted(shown.rules), "/", *sorted(shown.demos))
            extra = sum(share * normal_of(name, *pair) for name, share in self._pasts) if shown.demos else 0.0
        return self._base + said + demos + extra

    def _instruction(self, step: int, shown: Shown) -> np.ndarray:
        general, special = self._weights[step]
        by_class = np.full(8, -0.12 * max(0, len(shown.rules) - 6))
        for rule in shown.rules:
            if rule in special:
                label, weight = special[rule]
                by_class[label] += weight
            else:
                by_class += general[rule]
        if self.family == "nonadditive":
            by_class += sum(w for pair, w in self._pairs[step].items() if pair <= shown.rules)
        return by_class

    def _demonstrations(self, step: int, shown: Shown) -> np.ndarray:
        right = [ticket for ticket, good in shown.demos if good and ticket in self._quality[step]]
        total = 0.25 * math.sqrt(len(right)) + sum(self._quality[step][t] for t in right)
        total -= 0.4 * sum(1 for _, good in shown.demos if not good)
        by_class = np.full(8, total)
        for label in {int(self.labels[ticket]) for ticket in right}:
            by_class[label] += 0.6
        return 0.8 * by_class


def _weights(rng: random.Random) -> tuple[dict[str, float], dict[str, tuple[int, float]]]:
    """General rules' weights; special rules' class and weight."""
    general = {}
    for rule in RULES[:24]:
        draw = rng.random()
        general[rule] = rng.uniform(0.2, 0.7) if draw < 0.35 else 0.0 if draw < 0.6 else -rng.uniform(0.1, 0.6)
    return general, {rule: (i // 2, rng.uniform(0.5, 1.8)) for i, rule in enumerate(RULES[24:])}


def _pairs(rng: random.Random) -> dict[frozenset[str], float]:
    return {frozenset(rng.sample(RULES, 2)): rng.gauss(0, 0.9) for _ in range(260)}


def normal_of(*parts: object) -> float:
    """A standard normal draw that these words decide."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return NORMAL.inv_cdf((int.from_bytes(digest) + 0.5) / 2**64)


def _bisect(function: object, wanted: float) -> float:
    low, high = -6.0, 6.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < wanted else (low, middle)  # type: ignore[operator]
    return (low + high) / 2


def _mixed(old: float, fresh: float, correlation: float, mean: float) -> float:
    return mean + correlation * (old - mean) + math.sqrt(1 - correlation**2) * (fresh - mean)


def changed(world: World, correlation: float) -> World:
    """The world after a change of model and tickets: weights correlated so with its own, fresh examples."""
    found = World(world.family, world.number, f"{world.name}-r{round(1_000 * correlation)}")
    found.come_from(world, correlation)
    return found


def instruction_text(rules: Iterable[str]) -> str:
    """An instruction that names these rules."""
    return "Sort the ticket into its class. " + " ".join(f"Rule {rule}." for rule in rules)


def shown_by(world: World, step: str, instruction: str, demos: Iterable[dict]) -> Shown:
    """What a compiled predictor's text shows, from its instruction and its demonstrations' fields."""
    seen = []
    for fields in demos:
        if TICKET.search(str(fields.get("ticket", ""))):
            ticket = int(TICKET.findall(str(fields["ticket"]))[0])
            label = int(world.labels[ticket])
            right = TOPICS[label // 2] if step == "topic" else LABELS[label]
            seen.append((ticket, fields.get(step) == right))
    return Shown(frozenset(RULE.findall(instruction)), tuple(seen))
