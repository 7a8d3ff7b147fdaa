"""Pictures: small, readable, the same bytes for the same contracts, and never a crash."""

import io
from pathlib import Path

import pytest
from PIL import Image

from swarmc.compiler import pictures
from swarmc.compiler.intervals import mean_score
from swarmc.contracts.candidates import Effect, Measured, RunCost, Study, Trial
from swarmc.contracts.canonical import PPM, content_id
from tests.compiler.results import measured_of, pools_of, study_of, trials_of

POOLS = pools_of()
MANY = pools_of(9, 120, 24)
MOST_BYTES = 24_000


def decoded(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def colours(png: bytes) -> set[tuple[int, int, int]]:
    found = decoded(png).convert("RGB").getcolors(1 << 24)
    assert found is not None
    return {colour for _, colour in found if isinstance(colour, tuple)}


def trial(number: int, scores: list[int], name: str = "", runs: int | None = None) -> Trial:
    key = content_id((name or str(number)).encode())
    score = mean_score([PPM * one for one in scores])
    return Trial(number=number, choice={"self": (number, 0)}, candidate_id=key, score=score, runs=runs or 0)


DRAWN = {
    "score": lambda: pictures.score_over_runs(trials_of(POOLS, 90)),
    "score of many": lambda: pictures.score_over_runs(trials_of(MANY, 3_000)),
    "one trial": lambda: pictures.score_over_runs([trial(0, [1, 0], runs=2)]),
    "trials without runs": lambda: pictures.score_over_runs([trial(n, [1, 0, 1]) for n in range(9)]),
    "effects": lambda: pictures.effects(study_of(POOLS)),
    "effects of many": lambda: pictures.effects(study_of(MANY)),
    "front": lambda: pictures.front(measured_of(POOLS, 40, 3)),
    "front of many": lambda: pictures.front(measured_of(MANY, 500)),
    "no trials": lambda: pictures.score_over_runs([]),
    "no effects": lambda: pictures.effects(Study(pools=POOLS)),
    "nothing measured": lambda: pictures.front([]),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_small_and_the_same_every_time(name: str) -> None:
    png = DRAWN[name]()
    assert png == DRAWN[name]()
    image = decoded(png)
    assert image.format == "PNG"
    assert image.info == {}
    assert image.width <= 800
    assert len(png) <= MOST_BYTES
    assert (255, 255, 255) in colours(png)


def test_pictures_keep_no_state_and_touch_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = pictures.front(measured_of(POOLS, 40, 3))
    pictures.effects(study_of(MANY))
    assert pictures.front(measured_of(POOLS, 40, 3)) == first
    assert list(tmp_path.iterdir()) == []


def test_another_score_is_another_picture() -> None:
    first, second = ([trial(0, scores, runs=4)] for scores in ([1, 0, 1, 1], [1, 0, 1, 0]))
    assert pictures.score_over_runs(first) != pictures.score_over_runs(second)


def test_a_lucky_start_of_few_examples_leads_nothing() -> None:
    lucky, steady = trial(0, [1, 1]), trial(1, [1] * 30 + [0] * 4)
    again = trial(2, [1, 1, 0, 0, 0], name="1")
    leaders = pictures._leaders([lucky, steady, trial(3, [1]), again])
    assert leaders == [lucky.score, steady.score, steady.score, lucky.score]


def measured(name: str, scores: list[int], tokens: int, own: bool = False, msats: int = 0) -> Measured:
    score = mean_score([PPM * one for one in scores])
    cost = RunCost(calls=len(scores), prompt_tokens=tokens * len(scores), msats=msats)
    choice = {"self": (0, 0) if own else (1, 1)}
    return Measured(candidate_id=content_id(name.encode()), choice=choice, score=score, cost=cost)


def test_the_front_holds_who_is_neither_dearer_nor_worse_and_was_seen_often_enough() -> None:
    cheap = measured("cheap", [1, 0] * 10, 100, own=True)
    good = measured("good", [1, 1, 1, 0] * 5, 200)
    worse = measured("worse", [1, 0] * 10, 300)
    lucky = measured("lucky", [1], 150)
    points, unit = pictures._points([good, worse, lucky, cheap])
    assert unit == "tokens"
    assert [point.cost for point in pictures._undominated(points)] == [100, 200]
    assert [point.own for point in points] == [False, False, False, True]


@pytest.mark.parametrize(
    ("change", "unit", "cost"),
    [({"msats": 40}, "msats", 20.0), ({}, "tokens", 7.0), ({"prompt_tokens": 0}, "calls", 1.0)],
)
def test_costs_are_in_msats_or_tokens_or_calls(change: dict[str, int], unit: str, cost: float) -> None:
    one = measured("a", [1, 0], 7)
    one = one.model_copy(update={"cost": one.cost.model_copy(update=change)})
    points, found = pictures._points([one])
    assert (found, points[0].cost) == (unit, cost)


def test_a_panel_shows_the_best_and_always_the_programs_own() -> None:
    kind = [Effect(predictor="self", instruction=n, mean=n * 10, sd=5, runs=1) for n in range(60)]
    shown = [effect.instruction for effect in pictures._best(kind)]
    assert len(shown) == pictures.MOST_SHOWN
    assert shown[:3] == [59, 58, 57]
    assert shown[-1] == 0


def test_predictors_whose_choices_matter_most_get_the_panels() -> None:
    panels = pictures._panels(study_of(MANY))
    assert len(panels) == pictures.MOST_PANELS
    assert all(effect.instruction is None or effect.demos is None for _, found in panels for effect in found)
    reach = [max(e.mean for e in found) - min(e.mean for e in found) for _, found in panels]
    assert reach == sorted(reach, reverse=True)


def test_a_name_of_any_length_and_content_is_drawn_as_it_is() -> None:
    effect = Effect(predictor="steps['$\\frac{$']" + "x" * 300, instruction=0, mean=0, sd=0, runs=0)
    assert decoded(pictures.effects(Study(pools=POOLS, effects=(effect,)))).width <= 800
