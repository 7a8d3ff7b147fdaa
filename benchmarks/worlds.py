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
"""

import hashlib
import json
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
SKILLS = (0.0, 0.15, 0.3)
WORDS = ("my", "the", "was", "with", "has", "please", "not", "again", "today", "still", "parcel", "card", "screen")

TICKET = re.compile(r"\bT(\d{5})\b")
RULE = re.compile(r"\b([gs]\d\d)\b")
FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]\s*(.*?)\s*(?=\[\[ ## |\Z)", re.DOTALL)
MARKER = re.compile(r"\[\[ ## (\w+) ## \]\]")
EXPECTED = re.compile(r"expected (\w+)")
ASKED_FOR = "Respond with the corresponding output fields"
AS_JSON = "JSON object in the following order of fields"
NAME = re.compile(r"`(\w+)`")
OBJECTIVE = "your objective is:"
FENCE = re.compile(r"```(?:\w*\n)?(.*?)```", re.DOTALL)
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
    """

    def __init__(self, family: str, number: int) -> None:
        self.name = f"{family}-{number}"
        self.family = family
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
        own = [Shown(frozenset(), ())] * len(self.steps)
        self._base = _bisect(lambda base: self._own_score(own, base), OWN_SCORE)

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
        shared, own = _normal(self.name, "ticket", step, ticket), _normal(self.name, text_key, step, ticket)
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
            extra = _normal(self.name, "pair", *sorted(shown.rules), "/", *sorted(shown.demos)) if shown.demos else 0.0
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
        right = [ticket for ticket, good in shown.demos if good and ticket < GIVEN]
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


def _normal(*parts: object) -> float:
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return NORMAL.inv_cdf((int.from_bytes(digest) + 0.5) / 2**64)


def _bisect(function: object, wanted: float) -> float:
    low, high = -6.0, 6.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < wanted else (low, middle)  # type: ignore[operator]
    return (low + high) / 2


def instruction_text(rules: Iterable[str]) -> str:
    """An instruction that names these rules."""
    return "Sort the ticket into its class. " + " ".join(f"Rule {rule}." for rule in rules)


class Model:
    """A world's language model: it knows requests by the fields they ask for, and counts what it is asked.

    Equal requests at a temperature below .5 are counted once, as a response cache would have it.

    Attributes:
        calls: Completions that had to be paid for.
        kinds: `calls` by kind: `task`, `propose`, `reflect`, `other`.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.calls = 0
        self.tokens = 0
        self.kinds: dict[str, int] = {}
        self._seed = seed
        self._known: dict[str, str] = {}
        self._times: dict[str, int] = {}
        self._prompts: dict[tuple[str, ...], tuple[Shown, str]] = {}

    def answer(self, messages: Sequence[tuple[str, str]], *, warm: bool, sample: int = 0) -> str:
        """The text for `messages`, (role, content) pairs.

        Args:
            messages: In order.
            warm: The temperature is at least .5, so that a repeated request has another answer.
            sample: Which of repeated samples.
        """
        key = hashlib.blake2b("\x1e".join(f"{r}\x1f{c}" for r, c in messages).encode()).hexdigest() + f":{sample}"
        if not warm and key in self._known:
            return self._known[key]
        self.calls += 1
        self.tokens += sum(len(content) for _, content in messages) // 4
        self._times[key] = self._times.get(key, 0) + 1
        rng = random.Random(f"{self.world.name}:{self._seed}:{key}:{self._times[key] if warm else 0}")
        kind, text = self._reply(messages, rng)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self._known[key] = text
        return text

    def _reply(self, messages: Sequence[tuple[str, str]], rng: random.Random) -> tuple[str, str]:
        last = messages[-1][1]
        fields = [name for name in MARKER.findall(last.partition(ASKED_FOR)[2]) if name != "completed"]
        written = _written
        if not fields and AS_JSON in last:
            fields, written = NAME.findall(last.partition(AS_JSON)[2]), json.dumps
        if not fields:
            return "reflect", f"```\n{self._child(last, FENCE.findall(last)[:1], rng)}\n```"
        if fields[-1] in self.world.steps:
            return "task", written(dict.fromkeys(fields, self._task(messages, fields[-1])))
        kind, text = self._write(fields, last, rng)
        return kind, written(dict.fromkeys(fields, text))

    def _write(self, fields: Sequence[str], asked: str, rng: random.Random) -> tuple[str, str]:
        """A proposal, a reflection on feedback, or words."""
        if not any("instruction" in name for name in fields):
            return "other", "Tickets are sorted into classes."
        given = dict(FIELD.findall(asked))
        if any("feedback" in name for name in given):
            return "reflect", self._child(asked, [given.get("current_instruction", "")], rng)
        return "propose", instruction_text(self.world.fresh_rules(rng, self._step_of(asked)))

    def _step_of(self, text: str) -> int:
        """The step that a proposal is for: in worlds of two steps, the one whose inputs lack the topic."""
        if len(self.world.steps) == 1:
            return 0
        asked = re.findall(r"(?:step ## \]\]\s*|module[^\n]*\n?[^\n]*)([^\n]*->[^\n]*)", text)
        where = asked[-1] if asked else text
        return 0 if re.search(r"->\s*`?(?:reasoning`?,\s*`?)?topic", where) else 1

    def _child(self, text: str, parents: Sequence[str], rng: random.Random) -> str:
        parent = RULE.findall(parents[0]) if parents else []
        step = 0 if "expected_topic" in text or len(self.world.steps) == 1 else 1
        return instruction_text(self.world.child_rules(rng, step, parent, EXPECTED.findall(text)))

    def _task(self, messages: Sequence[tuple[str, str]], field: str) -> str:
        step = self.world.steps.index(field)
        shown, key = self._shown(messages, field)
        given = dict(FIELD.findall(messages[-1][1].partition(ASKED_FOR)[0]))
        ticket = int(TICKET.findall(given.get("ticket", "T00000"))[0])
        label = int(self.world.labels[ticket])
        names, right = (TOPICS, label // 2) if field == "topic" else (LABELS, label)
        wrong_topic = step == 1 and given.get("topic") != TOPICS[label // 2]
        if self.world.is_right(step, shown, key, ticket, -2.0 if wrong_topic else 0.0):
            return names[right]
        return names[(right + 1 + int(_normal(key, ticket) > 0)) % len(names)]

    def _shown(self, messages: Sequence[tuple[str, str]], field: str) -> tuple[Shown, str]:
        """What the prompt shows, and a key of its text; read once per prompt."""
        prefix = tuple(content for _, content in messages[:-1])
        if prefix not in self._prompts:
            rules = frozenset(RULE.findall(messages[0][1].rpartition(OBJECTIVE)[2]))
            demos = []
            for (_, asked), (_, said) in zip(messages[1:-1:2], messages[2:-1:2], strict=True):
                ticket = int((TICKET.findall(asked) or ["0"])[0])
                label = int(self.world.labels[ticket])
                demos.append(
                    (
                        ticket,
                        dict(FIELD.findall(said)).get(field)
                        == (LABELS[label] if field == "label" else TOPICS[label // 2]),
                    )
                )
            key = hashlib.blake2b("\x1e".join(prefix).encode(), digest_size=12).hexdigest()
            self._prompts[prefix] = Shown(rules, tuple(demos)), key
        return self._prompts[prefix]


def _written(fields: dict[str, str]) -> str:
    parts = [f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


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
