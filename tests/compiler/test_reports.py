"""Reports: every page says what it should, holds in a page with its pictures, and survives what is not there."""

import re
from typing import Any

import pytest

from swarmc.compiler import reports
from swarmc.compiler.intervals import mean_score, paired_difference
from swarmc.contracts.candidates import Comparison, Evaluation, Outcome, Pools, SearchResult, Study, Validation
from swarmc.contracts.canonical import PPM, content_id
from swarmc.contracts.plan import Plan, StagePlan
from swarmc.contracts.promotion import Promotion
from tests.compiler.results import candidate_of, pools_of, result_of

POOLS = pools_of(2)
HUGE = pools_of(9, 120, 24)
KEYS = [content_id(str(n).encode()) for n in range(20)]
WITHOUT_PICTURES_CHARS = 25_000


def evaluation(right: int, failure: str | None = None) -> Evaluation:
    scores = [PPM if n < right else 0 for n in range(20)]
    outcomes = tuple(
        Outcome(example_id=key, score_ppm=score, failure=None if score else failure)
        for key, score in zip(KEYS, scores, strict=True)
    )
    return Evaluation(candidate_id=KEYS[0], outcomes=outcomes, score=mean_score(scores))


def comparison(winner: int, other: int, failure: str | None = None) -> Comparison:
    mine, theirs = evaluation(winner, failure), evaluation(other)
    difference = paired_difference([o.score_ppm for o in mine.outcomes], [o.score_ppm for o in theirs.outcomes])
    return Comparison(winner=mine, baseline=theirs, improvement=difference)


def validation(**fields: Any) -> Validation:
    given = {"finalists": ((POOLS.baseline, mean_score([PPM, 0])),), "winner": POOLS.baseline, "comparison": None}
    return Validation(**{**given, "ended": "completed", **fields})


def images(page: str) -> list[str]:
    return re.findall(r"!\[([^\]]*)\]\(data:image/png;base64,", page)


def test_a_search_shows_three_pictures_leaders_best_instructions_and_the_change() -> None:
    page = reports.search_report(result_of(POOLS), POOLS)
    assert images(page) == list(reports.TITLES.values())
    assert "90 trials of 20,736 combinations" in page
    assert "## Leaderboard" in page
    assert re.search(r"\| self \| i\d+ \| [+-]\d\.\d\d \[[+-]\d\.\d\d, [+-]\d\.\d\d\] \| \d+ \| Way \d+: read", page)
    assert "## What the leader changed" in page


@pytest.mark.parametrize(
    "result",
    [
        result_of(HUGE, 3_000, 900),
        result_of(HUGE, 3_000, 900).model_copy(
            update={"finalists": ((candidate_of(HUGE, dict.fromkeys(HUGE.instructions, (9, 9))), mean_score([PPM])),)}
        ),
    ],
    ids=["huge", "huge with its change"],
)
def test_the_largest_search_fits_on_a_page_with_margin(result: SearchResult) -> None:
    page = reports.search_report(result, HUGE)
    pictures = sum(len(png) * 4 // 3 for png in reports.search_files(result, HUGE).values())
    assert pictures + WITHOUT_PICTURES_CHARS <= reports.MAX_PAGE_CHARS
    assert len(page) <= reports.MAX_PAGE_CHARS
    assert len(images(page)) == 3


def test_a_page_that_is_too_long_is_cut_within_its_size_and_outside_of_code() -> None:
    page = reports.page("# Long", "```\n" + "word " * 40_000 + "\n```")
    assert len(page) <= reports.MAX_PAGE_CHARS
    assert page.endswith("... cut")
    assert page.count("```") == 2


def test_search_files_are_those_that_have_something_to_show() -> None:
    whole = result_of(POOLS)
    assert list(reports.search_files(whole, POOLS)) == ["score.png", "effects.png", "front.png"]
    assert all(png.startswith(b"\x89PNG") for png in reports.search_files(whole, POOLS).values())
    bare = whole.model_copy(update={"measured": (), "study": None})
    assert list(reports.search_files(bare, POOLS)) == ["score.png"]
    assert reports.search_files(bare.model_copy(update={"trials": ()}), POOLS) == {}


def test_a_search_without_a_study_or_a_finalist_is_reported_all_the_same() -> None:
    whole = result_of(POOLS)
    page = reports.search_report(whole.model_copy(update={"measured": (), "study": None, "finalists": ()}), POOLS)
    assert images(page) == ["Score over program runs"]
    assert "Best instructions" not in page
    nothing = SearchResult(trials=(), finalists=(), ended="budget")
    assert "before one trial was scored" in reports.search_report(nothing, POOLS)


def test_instructions_that_were_written_during_the_search_are_shown() -> None:
    whole = result_of(POOLS)
    assert whole.study is not None
    late = Pools(
        instructions={name: ("own", *["written late"] * 11) for name in POOLS.instructions},
        demo_sets=POOLS.demo_sets,
    )
    study = Study(pools=late, effects=whole.study.effects)
    page = reports.search_report(whole.model_copy(update={"study": study}), POOLS)
    assert "| written late |" in page
    assert "- own" in page


def test_a_plan_is_a_table_with_its_sum_and_what_was_cut() -> None:
    stages = (
        StagePlan(stage="propose", lane="propose", calls_low=13, calls_high=19, msats_low=0, msats_high=0),
        StagePlan(stage="search", lane="swarm", calls_low=1_800, calls_high=1_800, msats_low=900, msats_high=5_400),
    )
    plan = Plan(stages=stages, runs=360, combinations=144, cut=("6 instructions instead of 12",))
    page = reports.plan_report(plan)
    assert "up to 360 program runs over 144 combinations" in page
    assert "| propose | propose | 13 - 19 | 0 |" in page
    assert "| **all** |  | 1,813 - 1,819 | 900 - 5,400 |" in page
    assert "## What was cut\n\n- 6 instructions instead of 12" in page
    assert "Nothing was cut." in reports.plan_report(Plan(stages=(), runs=0, combinations=0))


def test_a_validation_shows_both_comparisons() -> None:
    page = reports.validate_report(
        validation(comparison=comparison(18, 6, failure="the program raised ValueError"), incumbent=comparison(18, 17))
    )
    assert page.index("uncompiled") < page.index("## Against the program that is promoted now")
    assert page.count("Verdict: **better**.") == 1
    assert page.count("Verdict: **no difference shown**.") == 1
    assert "2 test examples failed, for example: the program raised ValueError" in page


def test_a_validation_without_an_incumbent_or_a_comparison_claims_nothing_of_it() -> None:
    assert "promoted now" not in reports.validate_report(validation(comparison=comparison(18, 6)))
    assert "no score may be claimed" in reports.validate_report(validation(finalists=(), ended="budget"))


@pytest.mark.parametrize(
    ("decision", "manifest", "incumbent", "now"),
    [("promoted", "file:///m.json", None, "`file:///m.json`"), ("kept", None, None, "nothing"),
     ("kept", "s3://b/m.json", KEYS[1], "`s3://b/m.json`")],
)  # fmt: skip
def test_a_promotion_says_what_runs_now_and_why(decision: Any, manifest: Any, incumbent: Any, now: str) -> None:
    page = reports.promotion_report(
        Promotion(
            name="tickets",
            decision=decision,
            reason="it is better by 0.2 to 0.4",
            run_id="r1",
            compiled_id=KEYS[0],
            manifest_uri=manifest,
            incumbent_id=incumbent,
        )
    )
    assert page.startswith(f"# tickets: {decision}\n\nit is better by 0.2 to 0.4")
    assert f"| runs now | {now} |" in page
    assert f"| ran before | {f'`{incumbent}`' if incumbent else 'nothing'} |" in page
