"""Studies: what a search hands to a later one, and what the later one takes from it.

Texts are matched by what they say, so a study serves as long as the program has the predictor and
the fields. How far its numbers are believed is for the surrogate to learn.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import dspy

from swarmc.compiler.demonstrations import DemoSets
from swarmc.compiler.surrogate import AdditiveLogistic
from swarmc.contracts.candidates import Demo, Effect, Pools, PredictorInfo, Study
from swarmc.contracts.canonical import canonical_bytes, plain
from swarmc.contracts.ports import Workbench

MILLI = 1_000
"""Effects are written down in thousandths of a logit."""
INSTRUCTION, DEMOS = 0, 1
FRESH_SHARE = 4
"""Of what is planned, such a part (a quarter) is made anew after an earlier search."""
FEWEST_FRESH = 2

Text = TypeVar("Text")


def fresh_instructions(bench: Workbench, name: str) -> int | None:
    """How many instructions to have proposed beside those of the earlier search; nothing said when it brings none."""
    return _fresh(bench.spec.instructions, len(_instructions(bench, name)))


def fresh_demo_sets(bench: Workbench) -> int | None:
    """How many demonstration sets to make beside those of the earlier search, as fits the predictor with the fewest."""
    return _fresh(bench.spec.demo_sets - 1, min(len(_demo_sets(bench, name)) for name in bench.predictors))


def without(study: Study, seen: Iterable[dspy.Example]) -> Study:
    """The study without demonstration sets that hold one of these examples: nobody may be shown what it is scored on.

    A demonstration holds an example when it has all of the example's inputs, with equal values. What
    the study says of dropped sets goes with them; of a finalist that had one for a predictor, the
    choices for its other predictors stay. A step that reads none of the program's inputs gives no
    example away by its fields, and keeps its sets.

    Args:
        study: Of an earlier search.
        seen: Today's search, validation and test examples, with their inputs marked.

    Raises:
        ValueError: an example's inputs are not marked.
    """
    known = _known(seen)
    kept = {
        name: [at for at, demos in enumerate(sets) if not any(_holds(demo, known) for demo in demos)]
        for name, sets in study.pools.demo_sets.items()
    }
    sets = {name: tuple(study.pools.demo_sets[name][at] for at in places) for name, places in kept.items()}
    now = {name: {at: place for place, at in enumerate(places)} for name, places in kept.items()}
    return study.model_copy(
        update={
            "pools": study.pools.model_copy(update={"demo_sets": sets}),
            "effects": tuple(found for one in study.effects if (found := _renumbered(one, now)) is not None),
            "best": tuple(found for one in study.best if (found := _left_of(one, now))),
        }
    )


def with_earlier_instructions(bench: Workbench, found: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Instructions by predictor: its own, the best of the earlier search (at most half a pool), then the fresh ones."""
    return {name: _joined(texts[:1], _instructions(bench, name), texts[1:]) for name, texts in found.items()}


def with_earlier_demo_sets(bench: Workbench, found: DemoSets) -> DemoSets:
    """As with instructions; sets whose fields are not the predictor's any more are left, and no pool outgrows plan."""
    if bench.earlier is None:
        return found
    return {
        name: _joined(sets[:1], _demo_sets(bench, name), sets[1:])[: bench.spec.demo_sets]
        for name, sets in found.items()
    }


def earlier_choices(study: Study, pools: Pools) -> list[dict[str, tuple[int, int]]]:
    """The earlier finalists that today's pools still hold, best first, as choices from today's pools."""
    found = []
    for best in study.best:
        choice = {}
        for name in pools.instructions:
            at = _moved(study, pools, name, best[name]) if name in best else (None, None)
            if at[0] is not None and at[1] is not None:
                choice[name] = (at[0], at[1])
        if len(choice) == len(pools.instructions):
            found.append(choice)
    return found


def expect_earlier(model: AdditiveLogistic, study: Study, pools: Pools) -> None:
    """Tell a model, whose groups are the pools' predictors, what an earlier search learned of today's choices."""
    groups = {name: g for g, name in enumerate(pools.instructions)}
    if study.effects:
        model.expect_level(study.level / MILLI)
    for effect in study.effects:
        if effect.predictor not in groups:
            continue
        group, mean, sd = groups[effect.predictor], effect.mean / MILLI, effect.sd / MILLI
        instruction, demos = _moved(study, pools, effect.predictor, (effect.instruction, effect.demos))
        if effect.instruction is not None and effect.demos is not None:
            if instruction is not None and demos is not None:
                model.expect_pair(group, (instruction, demos), mean, sd)
        elif instruction is not None:
            model.expect(group, INSTRUCTION, instruction, mean, sd)
        elif demos is not None:
            model.expect(group, DEMOS, demos, mean, sd)


def study_of(model: AdditiveLogistic, pools: Pools) -> Study:
    """What the model learned of the pools."""
    names = list(pools.instructions)
    effects = []
    for one in model.learned():
        texts = pools.instructions[names[one.group]]
        instruction, demos = one.key
        if instruction is not None and instruction >= len(texts):
            continue
        effects.append(
            Effect(
                predictor=names[one.group],
                instruction=instruction,
                demos=demos,
                mean=round(one.mean * MILLI),
                sd=round(one.sd * MILLI),
                runs=one.runs,
            )
        )
    spreads = {kind: round(spread * MILLI) for kind, spread in model.spreads.items()}
    return Study(pools=pools, effects=tuple(effects), level=round(model.level * MILLI), spreads=spreads)


def _known(seen: Iterable[dspy.Example]) -> dict[tuple[str, ...], set[bytes]]:
    """By names of inputs, the inputs' values in their canonical form."""
    known: dict[tuple[str, ...], set[bytes]] = {}
    for example in seen:
        inputs = {name: plain(value) for name, value in dict(example.inputs()).items()}
        if inputs:
            known.setdefault(tuple(sorted(inputs)), set()).add(canonical_bytes(inputs))
    return known


def _holds(demo: Demo, known: Mapping[tuple[str, ...], Collection[bytes]]) -> bool:
    return any(
        set(names) <= set(demo.fields) and canonical_bytes({name: demo.fields[name] for name in names}) in values
        for names, values in known.items()
    )


def _renumbered(effect: Effect, now: Mapping[str, Mapping[int, int]]) -> Effect | None:
    """The effect with its set's place today; nothing when the set is gone."""
    if effect.demos is None:
        return effect
    at = now.get(effect.predictor, {}).get(effect.demos)
    return None if at is None else effect.model_copy(update={"demos": at})


def _left_of(choice: Mapping[str, tuple[int, int]], now: Mapping[str, Mapping[int, int]]) -> dict[str, tuple[int, int]]:
    """The choices whose sets are left, with the sets' places today."""
    return {
        name: (instruction, now[name][demos])
        for name, (instruction, demos) in choice.items()
        if demos in now.get(name, {})
    }


def _best(study: Study, name: str, pool: Sequence[Text], part: int) -> list[Text]:
    """What the finalists chose, then the rest that was scored and did no harm, by posterior mean."""
    chosen = [best[name][part] for best in study.best if name in best]
    means = {}
    for effect in study.effects:
        at = (effect.instruction, effect.demos)
        if effect.predictor == name and at[part] is not None and at[1 - part] is None and effect.mean > 0:
            means[at[part]] = effect.mean
    order = dict.fromkeys([*chosen, *sorted(means, key=lambda at: (-means[at], at))])
    return [pool[at] for at in order if at is not None and at < len(pool)]


def _fresh(planned: int, brought: int) -> int | None:
    """A part of what is planned, where the earlier search brings as much; else what is missing."""
    few = max(FEWEST_FRESH, -(-planned // FRESH_SHARE))
    if not brought:
        return None
    return min(planned, few if brought >= few else planned - brought)


def _instructions(bench: Workbench, name: str) -> list[str]:
    """What the earlier search brings for a predictor: at most half a pool, without the predictor's own."""
    study = bench.earlier
    if study is None or name not in bench.predictors:
        return []
    best = _best(study, name, study.pools.instructions.get(name, ()), INSTRUCTION)
    return [text for text in best if text != bench.predictors[name].instruction][: bench.spec.instructions // 2]


def _demo_sets(bench: Workbench, name: str) -> list[tuple[Demo, ...]]:
    """As with instructions; only sets whose fields are still the predictor's."""
    study = bench.earlier
    if study is None or name not in bench.predictors:
        return []
    best = _best(study, name, study.pools.demo_sets.get(name, ()), DEMOS)
    own, info = bench.own.predictors[name].demos, bench.predictors[name]
    return [demos for demos in best if demos != own and _fits(demos, info)][: bench.spec.demo_sets // 2]


def _joined(own: Sequence[Text], best: Sequence[Text], fresh: Sequence[Text]) -> tuple[Text, ...]:
    kept = [text for text in best if text not in own]
    return (*own, *kept, *(text for text in fresh if text not in kept))


def _fits(demos: Sequence[Demo], info: PredictorInfo) -> bool:
    """Every demonstration has all inputs, an output, and nothing else."""
    known = {*info.inputs, *info.outputs}
    return all(
        set(demo.fields) <= known and set(info.inputs) <= set(demo.fields) and set(info.outputs) & set(demo.fields)
        for demo in demos
    )


def _moved(
    study: Study, pools: Pools, name: str, choice: tuple[int | None, int | None]
) -> tuple[int | None, int | None]:
    """Where today's pools hold what `choice` named in the study's."""
    instructions, demo_sets = study.pools.instructions.get(name, ()), study.pools.demo_sets.get(name, ())
    return (
        _found(instructions, choice[INSTRUCTION], pools.instructions[name]),
        _found(demo_sets, choice[DEMOS], pools.demo_sets[name]),
    )


def _found(earlier: Sequence[Text], at: int | None, today: Sequence[Text]) -> int | None:
    if at is None or at >= len(earlier) or earlier[at] not in today:
        return None
    return list(today).index(earlier[at])
