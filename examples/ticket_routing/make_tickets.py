"""Write `tickets.jsonl`: 400 support tickets, each with the code word of the team that handles its topic."""

import json
import random
from pathlib import Path

SEED = 7
PER_TEAM = 100

TEAMS = {"billing": "kilo", "login": "sierra", "shipping": "delta", "device": "oscar"}
"""Topic -> team. The code words are arbitrary: nothing but examples can tell which team has which topic."""

TOPICS = {
    "billing": "card invoice refund charge payment receipt price fee bank coupon",
    "login": "password account username locked code email signin token session captcha",
    "shipping": "parcel delivery courier package box address tracking truck depot customs",
    "device": "screen battery cable button speaker camera charger keyboard printer router",
}

DISTRACTORS = {
    "tone": "terrible awful furious useless worst horrible please kindly maybe hello regards ok "
    "great lovely happy wonderful perfect super",
    "urgency": "urgent now immediately asap today critical tomorrow soon week monday friday tuesday "
    "later someday whenever eventually sometime anytime",
    "region": "paris berlin madrid rome vienna oslo tokyo delhi seoul hanoi dhaka osaka "
    "cairo lagos nairobi accra tunis dakar boston lima quito toronto chicago bogota",
}
"""What else a ticket says. None of it decides the team, so a misleading instruction has something to mislead to."""

FILLERS = "my the is a was it with on has and i we this still not from our you in for"


def write_ticket(rng: random.Random, topic: str) -> str:
    """One ticket of 4 to 7 words: a word of the topic, one of each distractor and up to three fillers, shuffled."""
    words = [rng.choice(lexicon.split()) for lexicon in (TOPICS[topic], *DISTRACTORS.values())]
    rng.shuffle(words)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        words.insert(rng.randint(0, len(words)), rng.choice(FILLERS.split()))
    return " ".join(words)


def make_tickets(seed: int = SEED, per_team: int = PER_TEAM) -> list[dict[str, str]]:
    """`per_team` tickets for each team, no text twice, in rounds that hold every team once."""
    rng = random.Random(seed)
    seen: set[str] = set()
    tickets = []
    for _ in range(per_team):
        for topic in rng.sample(list(TEAMS), len(TEAMS)):
            text = write_ticket(rng, topic)
            while text in seen:
                text = write_ticket(rng, topic)
            seen.add(text)
            tickets.append({"text": text, "team": TEAMS[topic]})
    return tickets


def main() -> None:
    """Replace `tickets.jsonl` beside this file."""
    lines = [json.dumps(ticket) + "\n" for ticket in make_tickets()]
    Path(__file__).with_name("tickets.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
