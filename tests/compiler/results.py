"""Results of searches that look like real ones, made from a seed; no model, no search."""

import random

from swarmc.compiler.intervals import mean_score
from swarmc.contracts.candidates import (
    Candidate,
    Demo,
    Effect,
    Measured,
    Pools,
    PredictorChoice,
    RunCost,
    SearchResult,
    Study,
    Trial,
)
from swarmc.contracts.canonical import PPM, content_id

Choice = dict[str, tuple[int, int]]


def score_of(rng: random.Random, chance: float, count: int):
    return mean_score([PPM if rng.random() < chance else 0 for _ in range(count)])


def pools_of(predictors: int = 1, instructions: int = 12, sets: int = 12) -> Pools:
    names = [f"step{n}.predict" if n else "self" for n in range(predictors)]
    demos = tuple((Demo(fields={"text": f"ticket {n}", "team": "billing"}),) * (n % 5) for n in range(sets))
    texts = tuple(f"Way {n}: read the ticket, then name the team. " * 3 for n in range(instructions))
    return Pools(instructions=dict.fromkeys(names, texts), demo_sets=dict.fromkeys(names, demos))


def choice_of(pools: Pools, rng: random.Random) -> Choice:
    return {
        name: (rng.randrange(len(texts)), rng.randrange(len(pools.demo_sets[name])))
        for name, texts in pools.instructions.items()
    }


def trials_of(pools: Pools, count: int, seed: int = 0) -> list[Trial]:
    rng = random.Random(seed)
    trials, runs = [], 0
    for number in range(count):
        runs += 4
        choice = choice_of(pools, rng) if number else dict.fromkeys(pools.instructions, (0, 0))
        chance = 0.5 + 0.3 * number / count + rng.uniform(-0.15, 0.15)
        score = score_of(rng, chance, 4 + min(80, number // 2))
        trials.append(
            Trial(number=number, choice=choice, candidate_id=content_id(repr(choice).encode()), score=score, runs=runs)
        )
    return trials


def measured_of(pools: Pools, count: int, msats: int = 0, seed: int = 1) -> list[Measured]:
    rng = random.Random(seed)
    found = []
    for number in range(count):
        choice = choice_of(pools, rng) if number else dict.fromkeys(pools.instructions, (0, 0))
        length = sum(d for _, d in choice.values()) / len(choice)
        score = score_of(rng, min(0.55 + 0.03 * length + rng.uniform(-0.1, 0.1), 1), rng.choice([4, 8, 24, 90]))
        tokens = int((200 + 90 * length) * score.count)
        cost = RunCost(calls=score.count, prompt_tokens=tokens, completion_tokens=9 * score.count, msats=msats * tokens)
        found.append(Measured(candidate_id=content_id(repr(choice).encode()), choice=choice, score=score, cost=cost))
    return found


def study_of(pools: Pools, seed: int = 2) -> Study:
    rng = random.Random(seed)
    found = []
    for scale, name in enumerate(pools.instructions, start=1):
        for kind, count in (("instruction", len(pools.instructions[name])), ("demos", len(pools.demo_sets[name]))):
            for index in range(count):
                sd, runs = rng.randint(150, 700), rng.randint(0, 90)
                mean = rng.randint(-900, 900) // scale
                found.append(Effect(predictor=name, mean=mean, sd=sd, runs=runs, **{kind: index}))
        found.append(Effect(predictor=name, instruction=1, demos=1, mean=5_000, sd=90, runs=9))
    return Study(pools=pools, effects=tuple(found))


def candidate_of(pools: Pools, choice: Choice) -> Candidate:
    return Candidate(
        predictors={
            name: PredictorChoice(instruction=pools.instructions[name][i], demos=pools.demo_sets[name][d])
            for name, (i, d) in choice.items()
        }
    )


def result_of(pools: Pools, trials: int = 90, measured: int = 40, msats: int = 3) -> SearchResult:
    made = trials_of(pools, trials)
    last = made[-1]
    return SearchResult(
        trials=tuple(made),
        finalists=((candidate_of(pools, last.choice), last.score),),
        ended="completed",
        measured=tuple(measured_of(pools, measured, msats)),
        study=study_of(pools),
    )
