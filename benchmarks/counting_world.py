"""The hidden world behind the counting server: what a prompt is worth, and what its model says.

It answers as a model behind DSPy's ChatAdapter would: in the fields that the last user message asks
for, else those that the system message lists.

* Right answer: a question that says `label=X` has the right answer `X`; else the first of its words
  that is in `CLASS_OF` decides. `right_answer(question)` says it, `questions(n, seed)` makes some.
* The chance of it: `.02 + .96 * sigmoid(BASE + keywords + demos - difficulty)`. `keywords` adds the
  weight of each word of `CLAUSES` in the instruction (the same word twice counts once); a demo whose
  answer is right adds `PER_DEMO`, up to `MOST_DEMOS` of them, a wrong one takes as much; `difficulty`
  is a normal draw from the hash of the question. A hash of the prompt (and of a `seed`) decides.
* Asked for a field whose name contains `instruction`, it writes one from `CLAUSES`, good and bad.
"""

import hashlib
import math
import random
import re
from functools import lru_cache
from statistics import NormalDist

import orjson

CLASS_WORDS = {
    "billing": "card invoice refund charge payment receipt price fee",
    "login": "password account username locked email token session signin",
    "shipping": "parcel delivery courier package address tracking truck customs",
    "device": "screen battery cable button speaker camera charger router",
}
CLASS_OF = {word: name for name, words in CLASS_WORDS.items() for word in words.split()}
CLASSES = tuple(CLASS_WORDS)
FILLERS = "my the is was with on has please not from our again today still and very"
CLAUSES = {
    "topic": (0.9, "Look at the topic."),
    "category": (0.7, "Answer with the category."),
    "carefully": (0.5, "Read carefully."),
    "exactly": (0.4, "Copy the name exactly."),
    "concise": (0.3, "Be concise."),
    "label": (0.6, "Give the label alone."),
    "expert": (0.1, "You are an expert."),
    "important": (0.0, "This is important."),
    "creative": (-0.5, "Be creative."),
    "mood": (-0.8, "Judge by the mood."),
    "explain": (-0.3, "Then explain at length."),
}
BASE, PER_DEMO, MOST_DEMOS = -0.6, 0.3, 6
DIFFICULTY = NormalDist(0, 1.2)
REASONS = frozenset({"reasoning", "rationale", "observations", "summary", "description"})

MARKER = re.compile(r"\[\[ ## (\w+) ## \]\]")
LISTED = re.compile(r"^\d+\. `(\w+)` \((.*?)\):", re.MULTILINE)
WORD = re.compile(r"[a-z]+")
LABEL = re.compile(r"\blabel=(\w+)")
ASKED_FOR = "Respond with the corresponding output fields"
OBJECTIVE = "your objective is:"


def right_answer(question: str) -> str | None:
    """What is right for `question`; nothing when it holds neither a label nor a known word."""
    if found := LABEL.search(question):
        return found[1]
    return next((CLASS_OF[word] for word in WORD.findall(question.lower()) if word in CLASS_OF), None)


def questions(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """`count` distinct questions of this world with their right answers."""
    rng, fillers = random.Random(seed), FILLERS.split()
    rows = {}
    while len(rows) < count:
        words = [rng.choice(fillers) for _ in range(rng.randint(3, 6))]
        words.insert(rng.randint(0, len(words)), rng.choice(sorted(CLASS_OF)))
        text = f"{' '.join(words)} {len(rows)}"
        rows[text] = right_answer(text) or ""
    return list(rows.items())


def chance(instruction: str, right_demos: int, wrong_demos: int, question: str) -> float:
    """Probability of the right answer, 0 to 1."""
    words = set(WORD.findall(instruction.lower()))
    keywords = sum(weight for word, (weight, _) in CLAUSES.items() if word in words)
    demos = PER_DEMO * (min(right_demos, MOST_DEMOS) - wrong_demos)
    difficulty = DIFFICULTY.inv_cdf(min(max(unit("difficulty", question), 1e-9), 1 - 1e-9))
    return 0.02 + 0.96 / (1 + math.exp(-(BASE + keywords + demos - difficulty)))


def answer(messages: list[dict], seed: object = None) -> str:
    """The text that the world's model says to `messages`."""
    contents = [text_of(message.get("content")) for message in messages]
    system = next((text for message, text in zip(messages, contents, strict=True) if message["role"] == "system"), "")
    question, _, asked = contents[-1].partition(ASKED_FOR)
    draw = unit(orjson.dumps(messages), str(seed))
    value = _value(system, messages, contents, question, draw)
    listed = _outputs(system)
    fields = [name for name in MARKER.findall(asked) if name != "completed"] or list(listed)
    if not fields:
        return value
    parts = [f"[[ ## {name} ## ]]\n{_field(name, listed.get(name, 'str'), value, draw)}" for name in fields]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


def _value(system: str, messages: list[dict], contents: list[str], question: str, draw: float) -> str:
    right = right_answer(question)
    if right is None:
        return f"answer {int(draw * 1e6)}"
    demos = [
        (right_answer(contents[i]) or "") in contents[i + 1]
        for i in range(len(messages) - 2)
        if messages[i]["role"] == "user" and messages[i + 1]["role"] == "assistant"
    ]
    instruction = system.rpartition(OBJECTIVE)[2]
    if draw < chance(instruction, sum(demos), len(demos) - sum(demos), question):
        return right
    others = [name for name in CLASSES if name != right]
    return others[int(draw * 1e6) % len(others)]


def _field(name: str, kind: str, value: str, draw: float) -> str:
    """What a field of this name and type is given."""
    number = int(draw * 1e6)
    if "instruction" in name:
        return _instruction(number)
    if name in REASONS:
        return "The words of the question decide."
    if kind.startswith("Literal["):
        choices = re.findall(r"'([^']*)'", kind)
        return value if value in choices or not choices else choices[number % len(choices)]
    typed = {"int": number % 10, "float": round(draw, 2), "bool": draw < 0.5}
    return str(typed[kind]) if kind in typed else f'["{value}"]' if kind.startswith("list") else value


def _instruction(number: int) -> str:
    rng = random.Random(number)
    return " ".join(sentence for _, sentence in rng.sample(list(CLAUSES.values()), rng.randint(1, 4)))


@lru_cache(maxsize=4_096)
def _outputs(system: str) -> dict[str, str]:
    """Output fields and their types, as the ChatAdapter's system message lists them."""
    section = system.partition("Your output fields are:")[2].partition("All interactions")[0]
    return dict(LISTED.findall(section))


def text_of(content: object) -> str:
    """The text of a message's content: a string, or the text parts of a list."""
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content if isinstance(content, str) else ""


def unit(*parts: str | bytes) -> float:
    """A number in [0, 1) from the hash of `parts`."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return int.from_bytes(digest.digest()) / 2**64
