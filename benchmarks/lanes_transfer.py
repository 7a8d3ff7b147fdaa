"""How often the transfer test sends the search up, over many worlds: answers drawn without a compile."""

import random
from collections.abc import Sequence

import numpy as np

from benchmarks.lanes_compile import models_of
from benchmarks.worlds import GIVEN, Shown, World
from swarmc.compiler.transferring import Table, judge_transfer
from swarmc.contracts.transfer import TransferSpec

EXAMPLES = (16, 32, 48)
FAMILIES = ("additive", "interaction", "nonadditive")
MOST_DEMOS = 4


def moves(number: int, effects: int, hardness: int) -> tuple[bool, ...]:
    """Whether the search would move up, by `EXAMPLES`.

    Args:
        number: Of the world; families take turns.
        effects: As in `Task`.
        hardness: As in `Task`.
    """
    models = models_of(FAMILIES[number // 2 % len(FAMILIES)], number, effects, hardness)
    rng, asked = random.Random(f"transfer:{number}"), TransferSpec()
    prompts = [Shown(frozenset(), ())]
    prompts += [_prompt(rng, models["premium"]) for _ in range(asked.texts - 1)]
    tickets = rng.sample(range(GIVEN), max(EXAMPLES))
    cheap, better = (_scores(models[who], prompts, tickets) for who in ("cheap", "better"))
    return tuple(judge_transfer(cheap[:, :n], better[:, :n], asked, 0).moves for n in EXAMPLES)


def _prompt(rng: random.Random, world: World) -> Shown:
    demos = tuple((ticket, True) for ticket in rng.sample(range(GIVEN), rng.randint(0, MOST_DEMOS)))
    return Shown(frozenset(world.fresh_rules(rng, 0)), demos)


def _scores(world: World, prompts: Sequence[Shown], tickets: Sequence[int]) -> Table:
    return np.array([[float(world.is_right(0, p, str(i), t, 0.0)) for t in tickets] for i, p in enumerate(prompts)])
