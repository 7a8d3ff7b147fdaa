"""A run is bundled, checked, replayed without a model, compared and asked, from the ledger and the store it left."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from blocks.identity import signer
from flows.evidence import (
    bundle_run,
    diff_files,
    present_answer,
    present_difference,
    present_replayed,
    present_report,
    question_of,
    verify_bundle,
)
from flows.replay import replay_bundle
from swarmc.contracts.bundle import Report
from swarmc.contracts.errors import BundleError, LedgerError, SpecError
from swarmc.nostr.keys import SecretKey
from swarmc.tracing.bundle import read_bundle
from swarmc.tracing.evidence import evidence_of
from swarmc.tracing.query import ask
from swarmc.tracing.withholding import Guard
from tasks.package import Packaging
from tests.bundles import Line, bundle, document, forged, of_kind, small_bundle, small_spec

__all__ = ["bundle"]  # fixture

PROGRAM = """
import dspy

class Colours(dspy.Module):
    def __init__(self):
        super().__init__()
        self.say = dspy.Predict("question -> answer")

    async def aforward(self, question):
        return await self.say.acall(question=question)

def close(example, prediction, trace=None):
    return float(example.answer == prediction.answer)
"""


@pytest.mark.slow
@pytest.mark.xdist_group("prefect, a second server")
async def test_a_compile_of_the_command_line_is_bundled_checked_and_replayed(
    swarmc, manifest_of, counting_server, write_spec, tmp_path
):
    manifest = manifest_of(swarmc("compile", str(write_spec(counting_server()))))
    ledger = f"sqlite:///{swarmc.home / 'ledger.db'}"
    packaged = await bundle_run(manifest["run_id"][:8], ledger=ledger, out=tmp_path / "b.jsonl")
    report = await verify_bundle(packaged.path)
    assert report.faults == ()
    assert str(tmp_path) not in packaged.path.read_text()
    replayed = await replay_bundle(packaged.path)
    assert replayed.is_same, replayed
    assert replayed.compiled_id == manifest["compiled_id"]
    assert replayed.calls == manifest["details"]["calls"]
    with pytest.raises(LedgerError, match="no run begins with"):
        await bundle_run("nobody", ledger=ledger, out=tmp_path / "c.jsonl")
    assert not (tmp_path / "c.jsonl").exists()


async def test_a_replay_without_a_model_compiles_the_same_program(bundle: Path) -> None:
    replayed = await replay_bundle(bundle)
    assert replayed.parted is None
    assert replayed.compiled_id == replayed.recorded_id


TPE = {"sampler": "tpe", "trials": 4, "minibatch": 8, "demo_sets": 3, "instructions": 3, "finalists": 2, "halving": 2}
OTHERS = [{"budget": {"run": {"max_calls": 50}}}, {"budget": {"run": {"max_msats": 200}}}, {"search": TPE}]


@pytest.mark.parametrize("changes", [*OTHERS, {"optimizer": "Pareto"}], ids=["calls", "msats", "tpe", "pareto"])
async def test_a_run_of_another_kind_and_one_whose_budget_ran_out_are_replayed(tmp_path: Path, changes: dict) -> None:
    path = await small_bundle(tmp_path, small_spec(tmp_path, **changes), Packaging(Guard()))
    assert (await verify_bundle(path)).faults == ()
    assert (await replay_bundle(path)).is_same


async def test_a_warm_run_after_another_is_replayed_with_what_it_began_with(tmp_path: Path) -> None:
    first = small_spec(tmp_path)
    await small_bundle(tmp_path, first, Packaging(Guard()))
    again = first.model_copy(update={"start": "warm", "seed": 1})
    second = await small_bundle(tmp_path, again, Packaging(Guard()), "run-2")
    told = evidence_of(read_bundle(second))
    assert {"incumbent.json", "earlier.json"} <= told.bundle.documents.keys()
    assert {call.source for call in told.bundle.calls} == {"bought", "reused"}
    assert (await verify_bundle(second)).faults == ()
    assert (await replay_bundle(second)).is_same


def dropped(number: int):
    def drop(lines: list[Line]) -> None:
        calls = [line for line in lines if line["kind"] == "completion"]
        lines.remove(calls[number])

    return drop


@pytest.mark.parametrize("number", [0, 20, -1])
async def test_a_replay_names_the_first_request_that_nobody_recorded(bundle: Path, number: int) -> None:
    calls = read_bundle(bundle).calls
    replayed = await replay_bundle(forged(bundle, dropped(number)))
    assert replayed.parted is not None
    assert replayed.parted.stage == calls[number].receipt.stage
    assert replayed.parted.request_id == calls[number].receipt.request_id
    assert "label=" in replayed.parted.request
    assert not replayed.is_same


async def test_a_replay_names_the_stage_at_which_the_two_part(bundle: Path) -> None:
    def other_answer(lines: list[Line]) -> None:
        document(lines, "validation.json")["value"]["finalists"][0][1]["mean_ppm"] = 1

    def other_trial(lines: list[Line]) -> None:
        document(lines, "search.json")["value"]["trials"][2]["score"]["mean_ppm"] = 1

    parted = (await replay_bundle(forged(bundle, other_answer))).parted
    assert parted is not None
    assert (parted.stage, "differs in finalists" in parted.what) == ("validate", True)
    parted = (await replay_bundle(forged(bundle, other_trial))).parted
    assert parted is not None
    assert (parted.stage, parted.what[:7]) == ("search", "trial 2")


async def test_a_replay_runs_only_code_that_its_user_named(tmp_path: Path) -> None:
    (tmp_path / "colours.py").write_text(PROGRAM)
    program, metric = f"{tmp_path}/colours.py:Colours", f"{tmp_path}/colours.py:close"
    path = await small_bundle(tmp_path, small_spec(tmp_path, program=program, metric=metric), Packaging(Guard()))
    with pytest.raises(SpecError, match=r"say where it is with --program and --metric"):
        await replay_bundle(path)
    with pytest.raises(SpecError, match=r"\[elsewhere\]/colours\.py"):
        await replay_bundle(path, as_named=True)
    report = await verify_bundle(path)
    assert report.faults == ()
    assert any("is code, which a check does not run" in what for what in report.unchecked)
    replayed = await replay_bundle(path, program=program, metric=metric)
    assert replayed.is_same, replayed


async def test_another_bundle_is_told_by_its_root(bundle: Path) -> None:
    root = (await verify_bundle(bundle)).root
    assert (await verify_bundle(bundle, root=root)).holds
    report = await verify_bundle(forged(bundle, dropped(3)), root=root)
    assert report.faults[-1].what.endswith(f"not {root}: it is another bundle")


async def test_a_bundle_of_hashes_is_not_replayed(tmp_path: Path) -> None:
    path = await small_bundle(tmp_path, small_spec(tmp_path), Packaging(Guard(), kept="hashes"))
    with pytest.raises(BundleError, match="it can be checked, not replayed"):
        await replay_bundle(path)


async def test_what_is_shown_commands_no_terminal(bundle: Path, tmp_path: Path) -> None:
    screen = StringIO()
    console = Console(file=screen, width=200)
    assert present_report(console, await verify_bundle(bundle)) == 0
    assert present_report(console, Report.model_validate({"faults": [{"line": 3, "what": "\x1b[2J[red]x"}]})) == 8
    assert present_replayed(console, await replay_bundle(forged(bundle, dropped(0)))) == 8
    present_difference(console, diff_files(bundle, bundle, report=tmp_path / "diff.md"))
    present_answer(console, ask("SELECT '[bold]' || chr(27) || '[31m', NULL", [bundle]))
    shown = screen.getvalue()
    assert "\x1b" not in shown
    assert "line 3: \N{REPLACEMENT CHARACTER}[2J[red]x" in shown
    assert "PARTED in" in shown
    assert (tmp_path / "diff.md").read_text().startswith("# baseline of run-1 against winner of run-1")


def test_one_question_at_a_time() -> None:
    assert question_of(["SELECT 1", "a", "b"], which_instruction_won=False, cost_per_point=False) == (
        "SELECT 1",
        [Path("a"), Path("b")],
    )
    sql, paths = question_of(["a"], which_instruction_won=True, cost_per_point=False)
    assert ("instruction" in sql, paths) == (True, [Path("a")])
    for words, won, cost in ((["SELECT 1"], False, False), ([], True, False), (["a"], True, True), ([], False, False)):
        with pytest.raises(SpecError, match="ask one question"):
            question_of(words, which_instruction_won=won, cost_per_point=cost)


async def test_a_bundle_is_signed_with_a_nostr_key(tmp_path: Path) -> None:
    key = SecretKey.generate()
    path = await small_bundle(tmp_path, small_spec(tmp_path), Packaging(Guard(), sign=signer(key)))
    report = await verify_bundle(path)
    assert report.faults == ()
    assert f"the statement, signed by {key.pubkey}" in report.checked
    assert key.nsec() not in path.read_text()

    def resigned(**changes: str) -> Path:
        return forged(path, lambda lines: of_kind(lines, "statement")[0]["signatures"][0].update(changes))

    for changes in ({"public_key": SecretKey.generate().pubkey}, {"signature": "00"}, {"public_key": "no key"}):
        assert "is not one of this statement" in (await verify_bundle(resigned(**changes))).faults[0].what
    assert any("nothing here can check it" in what for what in (await verify_bundle(resigned(scheme="x"))).unchecked)
