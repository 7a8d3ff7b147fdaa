"""The language model of a hidden world: it reads prompts as DSPy and swarmc write them, answers and counts.

A request is known by the output fields that it asks for: a step of the program, a proposal of an
instruction, a reflection on failures, or words. Prices are fixed: 150 msats for 1,000 prompt tokens,
600 for 1,000 answered ones; a token is four characters.
"""

import hashlib
import json
import random
import re
from collections.abc import Sequence

from benchmarks.worlds import LABELS, RULE, TICKET, TOPICS, Shown, World, instruction_text, normal_of

WARM = 0.5
PROMPT_MSATS_PER_1K, ANSWER_MSATS_PER_1K = 150, 600
FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]\s*(.*?)\s*(?=\[\[ ## |\Z)", re.DOTALL)
MARKER = re.compile(r"\[\[ ## (\w+) ## \]\]")
EXPECTED = re.compile(r"expected (\w+)")
ASKED_FOR = "Respond with the corresponding output fields"
AS_JSON = "JSON object in the following order of fields"
NAME = re.compile(r"`(\w+)`")
OBJECTIVE = "your objective is:"
FENCE = re.compile(r"```(?:\w*\n)?(.*?)```", re.DOTALL)
ATTEMPT = re.compile(r"Instruction #\d+: (.*?)(?=Prefix #|Resulting Score #|\Z)", re.DOTALL)
RESULT = re.compile(r"Resulting Score #\d+: ([\d.]+)")


class Model:
    """A world's language model: it knows requests by the fields they ask for, and counts what it is asked.

    Equal requests at a temperature below .5 are counted once, as a response cache would have it.

    Attributes:
        calls: Completions that had to be paid for.
        tokens: Of their prompts.
        said_tokens: Of their answers.
        kinds: `calls` by kind: `task`, `propose`, `reflect`, `other`.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.calls = 0
        self.tokens = 0
        self.said_tokens = 0
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
        self.said_tokens += len(text) // 4 + 1
        self._known[key] = text
        return text

    def counts(self) -> dict:
        """Calls, kinds, tokens, and their price in msats."""
        msats = -(-(PROMPT_MSATS_PER_1K * self.tokens + ANSWER_MSATS_PER_1K * self.said_tokens) // 1_000)
        counted = {"calls": self.calls, "kinds": dict(self.kinds), "tokens": self.tokens}
        return {**counted, "said_tokens": self.said_tokens, "msats": msats}

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
        if "attempted_instructions" in given:
            return "propose", self._child(asked, [_best_attempt(given["attempted_instructions"])], rng)
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
        return names[(right + 1 + int(normal_of(key, ticket) > 0)) % len(names)]

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


def _best_attempt(history: str) -> str:
    """The text of the attempt that scored best, of those that DSPy's COPRO lists."""
    texts, scores = ATTEMPT.findall(history), [float(score) for score in RESULT.findall(history)]
    return max(zip(scores, texts, strict=False), default=(0.0, ""))[1]


def _written(fields: dict[str, str]) -> str:
    parts = [f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])
