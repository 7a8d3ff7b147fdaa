"""Two texts are compared word by word and example by example; many bundles answer SQL that sees nothing else."""

import json
from pathlib import Path

import pytest

from swarmc.compiler.intervals import paired_difference
from swarmc.contracts.candidates import Candidate, PredictorChoice
from swarmc.contracts.errors import BundleError, SpecError
from swarmc.tracing.diff import Side, compare, load_side, markdown, rows_of
from swarmc.tracing.query import QUESTIONS, TABLES, ask
from tests.bundles import Line, bundle, document, forged, of_kind

__all__ = ["bundle"]  # fixture


def renamed(lines: list[Line]) -> None:
    """Another run with the same content."""
    lines[0]["body"]["run_id"] = "run-2"


def test_winner_and_baseline_of_one_bundle_are_told_apart(bundle: Path) -> None:
    found = compare(load_side(bundle, "baseline"), load_side(bundle, "winner"), paired_difference)
    outcomes = {side: getattr(found, side).outcomes for side in ("before", "after")}
    assert len(found.duels) == 20
    assert found.won == sum(
        a.score_ppm > b.score_ppm for a, b in zip(outcomes["after"], outcomes["before"], strict=True)
    )
    assert found.improvement is not None
    assert found.improvement.mean_ppm == round((found.won - found.lost) / 20 * 1e6)
    assert any(line.startswith("+Classify") for line in found.texts[0].instruction)
    rows = {name: (before, after) for name, before, after in rows_of(found)}
    assert rows["msats a run"] == ("3.0", "3.0")
    assert rows["examples won"] == (str(found.lost), str(found.won))


def test_the_other_way_round_is_the_opposite(bundle: Path) -> None:
    winner, baseline = load_side(bundle, "winner"), load_side(bundle, "baseline")
    there, back = compare(baseline, winner, paired_difference), compare(winner, baseline, paired_difference)
    assert (there.won, there.lost) == (back.lost, back.won)
    assert there.texts[0].demos_added == back.texts[0].demos_removed
    assert there.improvement is not None
    assert back.improvement is not None
    assert there.improvement.mean_ppm == -back.improvement.mean_ppm


def test_a_text_is_the_same_as_itself(bundle: Path) -> None:
    winner = load_side(bundle)
    found = compare(winner, winner, paired_difference)
    assert found.texts == ()
    assert (found.won, found.lost) == (0, 0)
    assert "Both say the same." in markdown(found)


def test_a_compiled_program_alone_is_compared_by_its_text(bundle: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in bundle.read_bytes().splitlines()]
    (tmp_path / "compiled.json").write_text(json.dumps(document(lines, "compiled.json")["value"]))
    alone = load_side(tmp_path / "compiled.json")
    assert compare(load_side(bundle), alone, paired_difference).texts == ()
    assert compare(load_side(bundle, "baseline"), alone, paired_difference).improvement is None


def test_a_report_cannot_be_broken_out_of() -> None:
    def side(label: str, instruction: str) -> Side:
        text = Candidate(predictors={"a\n# b": PredictorChoice(instruction=instruction)})
        return Side(label=label, candidate_id=text.content_id, text=text)

    found = compare(side("one", "Do."), side("x\n# Paid by me | y", "```\n# Paid by me\n```` z"), paired_difference)
    text = markdown(found)
    assert "\n`````diff\n" in text
    assert [line for line in text.splitlines() if line.startswith("# ")] == ["# one against x # Paid by me | y"]
    assert "## Predictor `a # b`" in text


@pytest.mark.parametrize("which", ["nobody", "sha256:", "", "ffffffff"])
def test_a_candidate_that_is_not_one_is_refused_with_those_that_are(bundle: Path, which: str) -> None:
    with pytest.raises(BundleError, match=r"candidate of the bundle is .*winner, baseline"):
        load_side(bundle, which)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "\x00"])
def test_a_file_that_is_no_compiled_program_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(BundleError, match=r"c\.json is no compiled\.json"):
        load_side(tmp_path / "c.json")


def test_every_table_of_every_bundle_can_be_asked(bundle: Path) -> None:
    both = [bundle, forged(bundle, renamed)]
    counts = {name: ask(f"SELECT count(*), count(DISTINCT run_id) FROM {name}", both).rows[0] for name in TABLES}
    calls = len(of_kind([json.loads(line) for line in bundle.read_bytes().splitlines()], "completion"))
    assert counts["runs"] == (2, 2)
    assert counts["examples"] == (100, 2)
    assert counts["calls"] == counts["receipts"] == (2 * calls, 2)
    assert counts["outcomes"] == (80, 2)
    spent = ask("SELECT sum(msats), any_value(cost_msats) FROM receipts JOIN runs USING (run_id)", [bundle]).rows[0]
    assert spent == (3 * calls, 3 * calls)


def test_the_ready_made_questions_have_answers(bundle: Path) -> None:
    won = ask(QUESTIONS["which-instruction-won"], [bundle, forged(bundle, renamed)])
    assert won.columns[:2] == ("instruction", "wins")
    assert [row[1] for row in won.rows] == [2]
    cost = ask(QUESTIONS["cost-per-point"], [bundle])
    assert cost.rows[0][0] == "run-1"
    assert cost.rows[0][6] is not None


REFUSED = [
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM '{file}'",
    "SELECT * FROM read_text('{file}')",
    "COPY runs TO '{file}'",
    "ATTACH '{file}'",
    "SET enable_external_access = true",
    "INSTALL httpfs",
    "DROP TABLE runs",
    "SELECT 1; SELECT 2",
    "SELEKT",
    "",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_sql_reaches_no_file_and_changes_nothing(bundle: Path, tmp_path: Path, sql: str) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(SpecError):
        ask(sql.format(file=tmp_path / "secret.csv"), [bundle])
    assert (tmp_path / "secret.csv").read_text() == "a\n1\n"


def test_one_run_is_counted_once(bundle: Path) -> None:
    with pytest.raises(BundleError, match="give each run once"):
        ask("SELECT 1", [bundle, bundle])
