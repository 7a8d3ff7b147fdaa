"""The library's door: a compile with no Prefect server, its result, its budget, and how it goes on after a kill."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import ANY

import dspy
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.lanes import RESERVED_PER_PLACE
from flows.swarm_compiler import SwarmCompiler
from swarmc.contracts.errors import BudgetExhausted, DatasetError, MetricError, ProgramError, SpecError, VenueError
from swarmc.contracts.spec import LaneSpec
from tests.fakes import AnsweringVenue

COLOURS = ("red", "green", "blue", "black")
ROWS = [
    dspy.Example(question=f"number {i} label={COLOURS[i % 4]}", answer=COLOURS[i % 4]).with_inputs("question")
    for i in range(80)
]
SEARCH = {"trials": 8, "minibatch": 10, "demo_sets": 4, "instructions": 4, "max_bootstrapped_demos": 2}
SCRIPT = """
import json, sys
import dspy
from flows.swarm_compiler import SwarmCompiler
from swarmc.contracts.spec import LaneSpec

class Colours(dspy.Module):
    def __init__(self):
        super().__init__()
        self.say = dspy.Predict("question -> answer")

    async def aforward(self, question):
        return await self.say.acall(question=question)

    def forward(self, question):
        return self.say(question=question)

def same(example, prediction, trace=None):
    return prediction.answer == example.answer

colours = ("red", "green", "blue", "black")
rows = [dspy.Example(question=f"number {i} label={colours[i % 4]}", answer=colours[i % 4]).with_inputs("question")
        for i in range(120)]
lane = LaneSpec(venue=f"http://127.0.0.1:{sys.argv[1]}/v1", model="counting", max_tokens=64, attempts=2)
compiler = SwarmCompiler(lanes={"swarm": lane}, metric=same, search=json.loads(sys.argv[2]),
                         options={"proposer": "template", "adapter": {"json_fallback": False}})
result = compiler.compile(Colours(), rows)
print(json.dumps([result.manifest.run_id, result.manifest.compiled_id, result.account.total.calls]))
"""


def as_shown(request):
    """Right once a demonstration shows how, else always the same."""
    label = re.findall(r"label=(\w+)", request.messages[-1].content)[-1]
    return {"answer": label if len(request.messages) > 2 else "red"}


def same_colour(example, prediction, trace=None):
    return prediction.answer == example.answer


@pytest.fixture
def compiler(tmp_path):
    """Makes a compiler with a ledger and a store of its own, over a venue that learns from demonstrations."""

    def make(**said):
        kept = {"ledger": f"sqlite:///{tmp_path}/ledger.db", "store": str(tmp_path / "artifacts")}
        options = {"proposer": "template", "adapter": {"json_fallback": False}} | said.pop("options", {})
        venue = AnsweringVenue(as_shown, price_msats=3)
        made = {"lanes": venue, "metric": same_colour, "search": SEARCH, "quiet": True, "options": options, **kept}
        return SwarmCompiler(**(made | said))

    return make


def test_a_compile_asks_no_prefect_server(compiler):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{listening.getsockname()[1]}/api"}):
            result = compiler().compile(dspy.Predict("question -> answer"), ROWS)
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert result.scorecard.truth_score.mean > result.scorecard.baseline_score.mean
    assert result.promotion_result.decision == "promoted"


async def test_awaited_it_finds_the_same_and_the_ledger_sells_nothing_twice(compiler):
    first = await compiler().acompile(dspy.Predict("question -> answer"), ROWS)
    idle = AnsweringVenue(as_shown, price_msats=3)
    again = await compiler(lanes={"swarm": (idle, LaneSpec(concurrency=2))}).acompile("question -> answer", ROWS[::-1])
    assert idle.asked == []
    assert again.manifest.compiled_id == first.manifest.compiled_id
    assert again.account.total.calls == 0


def test_the_compiled_program_answers_with_the_model_that_is_configured(compiler):
    given = dspy.Predict("question -> answer")
    result = compiler().compile(given, ROWS)
    assert result.program.demos
    assert given.demos == []
    with dspy.context(lm=dspy.utils.DummyLM([{"answer": "red"}])):
        assert result.program(question="number 1 label=red").answer == "red"


def test_a_predictor_keeps_the_model_of_its_own_which_the_compile_did_not_ask(compiler):
    given = dspy.Predict("question -> answer")
    given.lm = dspy.utils.DummyLM([{"answer": "own"}])
    result = compiler().compile(given, ROWS)
    assert result.account.total.calls > 0
    assert result.program(question="which?").answer == "own"
    assert len(given.lm.history) == 0


def test_a_saved_result_is_read_by_plain_dspy(compiler, tmp_path):
    result = compiler().compile(dspy.Predict("question -> answer"), ROWS)
    result.save(tmp_path / "program.json")
    loaded = dspy.Predict("question -> answer")
    loaded.load(tmp_path / "program.json")
    assert [dict(demo) for demo in loaded.demos] == [dict(demo) for demo in result.program.demos] != []
    with pytest.raises(SpecError, match=r"ends in \.json"):
        result.save(tmp_path / "program.pkl")


def test_progress_is_shown_unless_quiet(compiler, capsys):
    compiler().compile("question -> answer", ROWS)
    assert capsys.readouterr() == ("", "")
    compiler(quiet=False).compile("question -> answer", ROWS)
    assert "validate" in (shown := capsys.readouterr().out)
    assert "already" in shown


@pytest.mark.parametrize("budget", [{"run": {"max_calls": 30}}, {"run": {"max_msats": 90}}])
def test_the_budget_holds(compiler, budget):
    venue = AnsweringVenue(as_shown, price_msats=3)
    result = compiler(lanes=venue, budget=budget).compile("question -> answer", ROWS)
    assert 0 < len(venue.asked) <= 30
    assert result.account.total.msats == 3 * len(venue.asked) <= 90


def test_a_budget_of_no_calls_is_said_before_anything_is_bought(compiler):
    with pytest.raises(BudgetExhausted, match="0 calls"):
        compiler(budget={"run": {"max_calls": 0}}).compile("question -> answer", ROWS)


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"lanes": {"swarm": 7}}, SpecError, "is a int; give a venue's name"),
        ({"lanes": {"fast": "practice"}}, SpecError, "names 'fast'"),
        ({"lanes": {"validation": "practice"}}, SpecError, "no `swarm` lane"),
        ({"lanes": "nowhere"}, VenueError, "names no venue"),
        ({"metric": 3}, MetricError, "give a function"),
        ({"metric": lambda example: True}, MetricError, "takes 1 arguments"),
        ({"metric": lambda example, prediction: 7}, MetricError, "from 0 to 1"),
        ({"search": "enormous"}, SpecError, r"search\.auto"),
        ({"search": {"trails": 3}}, SpecError, r"search\.trails"),
        ({"options": {"seed": 3}}, SpecError, "`options` has seed"),
        ({"budget": {"run": {"max_calls": -1}}}, SpecError, "max_calls"),
        ({"optimizer": "Magic"}, SpecError, "optimizer"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(compiler, said, error, words):
    with pytest.raises(error, match=words):
        compiler(**said).compile("question -> answer", ROWS)


@pytest.mark.parametrize(
    ("program", "rows", "error", "words"),
    [
        (object(), ROWS, ProgramError, "not a dspy.Module"),
        (dspy.Module(), ROWS, ProgramError, "nothing to compile"),
        ("question -> answer", [], DatasetError, "the trainset is empty"),
        ("question -> answer", ROWS[:3], DatasetError, "too few"),
        ("question -> answer", [*ROWS, "red"], DatasetError, "row 81"),
        ("question -> answer", [*ROWS, dspy.Example(question="?").with_inputs("question")], DatasetError, "no label"),
        ("question -> answer", [*ROWS, ROWS[0].with_inputs("answer")], DatasetError, "row 81: its inputs"),
    ],
)
def test_programs_and_examples_that_cannot_be_are_refused(compiler, program, rows, error, words):
    with pytest.raises(error, match=words):
        compiler().compile(program, rows)


async def test_in_a_running_loop_the_plain_call_says_what_to_write(compiler):
    with pytest.raises(SpecError, match=r"await compiler\.acompile"):
        compiler().compile("question -> answer", ROWS)


class Script:
    """The script in processes of its own, which share a home."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        (folder / "script.py").write_text(SCRIPT)
        self._command = [sys.executable, str(folder / "script.py"), str(port), json.dumps(SEARCH)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        homes = {"SWARMC_HOME": str(folder / "swarmc"), "PREFECT_HOME": str(folder / "prefect")}
        self._environment = kept | homes | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> tuple[str, str, int]:
        """Run to the end; run id, compiled id, calls."""
        process = self.start()
        output, errors = process.communicate(timeout=180)
        assert process.returncode == 0, output + errors
        return tuple(json.loads(output.splitlines()[-1]))

    def signalled(self, number: int, log: Path, calls: int) -> tuple[int, str]:
        """Run until so many calls were answered, then send the signal; exit code, and what it said last."""
        process = self.start()
        while process.poll() is None and len(answered(log)) < calls:
            time.sleep(0.01)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors


def answered(log: Path) -> list[str]:
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.slow
def test_killed_and_called_again_it_continues_and_buys_no_settled_call_twice(counting_server, tmp_path):
    log = tmp_path / "answers.log"
    script = Script(tmp_path, counting_server("--latency-ms", "20", "--log", str(log)))
    assert script.signalled(signal.SIGKILL, log, 60)[0] == -signal.SIGKILL
    (run_id,) = [path.stem for path in (tmp_path / "swarmc/events").iterdir()]
    finished, compiled_id, calls = script.finish()
    assert finished == run_id
    assert calls == len(set(answered(log)))
    # What was answered twice was in flight at the kill; the lane has so many reserved at most.
    assert len(answered(log)) - calls <= RESERVED_PER_PLACE * LaneSpec().concurrency
    assert script.finish() == (ANY, compiled_id, 0)
    assert not list((tmp_path / "prefect").rglob("*.db"))  # No temporary server either.


@pytest.mark.slow
def test_ctrl_c_loses_nothing(counting_server, tmp_path):
    log = tmp_path / "answers.log"
    script = Script(tmp_path, counting_server("--latency-ms", "50", "--log", str(log)))
    code, errors = script.signalled(signal.SIGINT, log, 40)
    assert code == -signal.SIGINT, errors
    assert "run the same again to continue" in errors
    assert script.finish()[2] == len(answered(log)) == len(set(answered(log)))


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
def test_the_flow_finds_the_same_for_the_same_request(
    swarmc_here, manifest_of, counting_server, write_spec, compiler, tmp_path
):
    path = write_spec(counting_server(), metric="exact_match")
    by_flow = manifest_of(swarmc_here("compile", str(path)))
    asked = json.loads(path.read_text())
    rows = [json.loads(line) for line in Path(asked["dataset"]["source"]).read_text().splitlines()]
    examples = [dspy.Example(row).with_inputs("question") for row in rows]
    options = {name: asked[name] for name in ("split", "adapter", "proposer")}
    lanes = {"swarm": LaneSpec(**asked["lanes"]["swarm"])}
    mine = compiler(lanes=lanes, metric="exact_match", search=asked["search"], options=options)
    result = mine.compile(dspy.Predict("question -> answer"), examples)
    assert result.manifest.compiled_id == by_flow["compiled_id"]
    assert result.account.total.calls == by_flow["details"]["calls"]
    assert result.scorecard.model_dump(mode="json") == by_flow["scorecard"]
