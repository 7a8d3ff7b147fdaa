"""Programs: loaded by any name, described, dressed without a trace on the original, saved for plain DSPy."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest

from swarmc.compiler.programs import Program, load_program, to_demo, to_example
from swarmc.contracts.candidates import Candidate, Demo, PredictorChoice
from swarmc.contracts.canonical import plain
from swarmc.contracts.errors import ProgramError

HERE = Path(__file__)
TICKETS = HERE.parents[2] / "examples" / "ticket_routing" / "program.py"
OWN_DEMO: dict[str, Any] = {"question": "own?", "hint": "h"}


class Hint(dspy.Signature):
    """Give a hint."""

    question: str = dspy.InputField(desc="what is asked")
    hint: str = dspy.OutputField()


class Chain(dspy.Module):
    """Two predictors, one of them inside a chain of thought, one with a demonstration of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.hint = dspy.Predict(Hint)
        self.hint.demos = [dspy.Example(**OWN_DEMO)]
        self.answer = dspy.ChainOfThought("question, hint -> answer: float")

    def forward(self, question: str) -> Any:
        return self.answer(question=question, hint=self.hint(question=question).hint)


class Paid(dspy.Module):
    """Has a language model of its own, which would be outside of every budget."""

    def __init__(self) -> None:
        super().__init__()
        self.step = dspy.Predict("question -> answer")
        self.step.lm = dspy.LM("openai/expensive", api_key="a secret")

    async def aforward(self, question: str) -> Any:
        return await self.step.acall(question=question)


class Needy(dspy.Module):
    def __init__(self, size: int) -> None:
        super().__init__()


class Silent(dspy.Module):
    """No predictor at all."""

    def forward(self) -> None: ...


paid = Paid()
number = 7


def broken() -> dspy.Module:
    raise OSError("no prompt file")


def load(name: str) -> Program:
    return load_program(f"{HERE}:{name}")


def candidate_of(program: Program, instruction: str, *demos: Demo) -> Candidate:
    choice = PredictorChoice(instruction=instruction, demos=demos)
    return Candidate(predictors=dict.fromkeys(program.predictors, choice))


def test_a_program_is_found_by_file_by_module_and_by_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    by_file = load_program(f"{TICKETS}:TicketRouter")
    monkeypatch.syspath_prepend(TICKETS.parents[2])
    by_module = load_program("examples.ticket_routing.program:TicketRouter")
    assert by_file.predictors == by_module.predictors
    assert by_file.signature_name == "RouteTicket"
    assert (by_file.predictors["route"].inputs, by_file.predictors["route"].outputs) == (("text",), ("team",))
    by_signature = load_program("question, context: list[str] -> answer: bool, why")
    assert by_signature.predictors["self"].outputs == ("answer", "why")
    assert by_signature.describe().predictors["self"].outputs[0].annotation == "bool"


def test_a_signature_class_an_instance_and_a_factory_are_programs_too() -> None:
    assert load("Hint").predictors["self"].instruction == "Give a hint."
    assert load("paid").predictors.keys() == {"step"}
    assert load("Chain").predictors.keys() == {"hint", "answer.predict"}


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        (f"{HERE}:Missing", "has no 'Missing'; it has: .*Chain"),
        (f"{HERE.parent / 'missing.py'}:Chain", "no file"),
        ("no_such_module:Chain", "no module 'no_such_module'"),
        (f"{HERE}:number", "is a int, not a dspy.Module"),
        (f"{HERE}:HERE", "is a .*Path, not a dspy.Module"),
        (f"{HERE}:Needy", "could not be made without arguments: TypeError.*size"),
        (f"{HERE}:broken", "could not be made without arguments: OSError: no prompt file"),
        (f"{HERE}:Silent", "has no dspy.Predict in it"),
        ("-> answer answer", "cannot be read"),
        ("question", "no `package.module:attribute`"),
    ],
)
def test_what_is_no_program_is_refused_with_the_reason(reference: str, sentence: str) -> None:
    with pytest.raises(ProgramError, match=sentence):
        load_program(reference)


def test_a_model_of_its_own_is_taken_away_and_named() -> None:
    program = load("Paid")
    assert program.own_models == ("step",)
    assert [predictor.lm for predictor in program.module.predictors()] == [None]
    assert [predictor.lm for predictor in load("paid").module.predictors()] == [None]
    assert paid.step.lm is not None
    assert b"secret" not in program.saved(candidate_of(program, "x"))


def test_only_a_program_with_aforward_can_be_awaited() -> None:
    assert [load(name).awaitable for name in ("Chain", "Paid", "Hint")] == [False, True, True]


def test_a_program_is_described_with_all_its_text() -> None:
    described = load("Chain").describe()
    hint, answer = described.predictors["hint"], described.predictors["answer.predict"]
    assert hint.signature_name == "Hint"
    assert (hint.inputs[0].description, hint.instruction) == ("what is asked", "Give a hint.")
    assert hint.demos == (Demo(fields=OWN_DEMO),)
    assert [field.name for field in answer.outputs] == ["reasoning", "answer"]
    assert described.content_id == load("Chain").describe().content_id


def test_dressing_a_program_leaves_the_original_as_it_was() -> None:
    program = load("Chain")
    before = program.describe()
    demo = Demo(fields={"question": "q", "hint": "h", "answer": plain(0.5)}, augmented=True)
    dressed: Any = program.dressed(candidate_of(program, "Be brief.", demo))
    assert program.describe() == before
    for _, predictor in dressed.named_predictors():
        assert predictor.signature.instructions == "Be brief."
        assert [dict(example) for example in predictor.demos] == [
            {"question": "q", "hint": "h", "answer": 0.5, "augmented": True}
        ]
    dressed.hint.demos.append("harm")
    assert program.describe() == before


def test_what_is_dressed_is_what_is_described() -> None:
    program = load("Chain")
    candidate = candidate_of(program, "Be brief.", Demo(fields={"question": "q", "tags": ["a", None]}))
    worn = Program(program.reference, program.dressed(candidate)).describe()
    described = program.describe().with_candidate(candidate)
    for name, predictor in described.predictors.items():
        # DSPy gives a signature with another instruction another class, which forgets the first one's name.
        assert worn.predictors[name] == predictor.model_copy(
            update={"signature_name": worn.predictors[name].signature_name}
        )


@pytest.mark.parametrize("augmented", [True, False])
def test_a_demonstration_survives_dspys_own_form(augmented: bool) -> None:
    demo = Demo(fields={"q": "a", "n": plain(0.1), "list": [1, {"$dict": {"$x": 1}}]}, augmented=augmented)
    assert to_demo(to_example(demo)) == demo


def test_a_saved_program_needs_nothing_of_ours(tmp_path: Path) -> None:
    program = load("Chain")
    demo = Demo(fields={"question": "naïve?", "hint": "h", "answer": plain(0.5)}, augmented=True)
    (tmp_path / "program.json").write_bytes(program.saved(candidate_of(program, "Be brief — now.", demo)))
    code = """
import sys
sys.modules["swarmc"] = None  # Any import of it now fails.
import dspy
class Chain(dspy.Module):
    def __init__(self):
        super().__init__()
        self.hint = dspy.Predict("question -> hint")
        self.answer = dspy.ChainOfThought("question, hint -> answer: float")
program = Chain()
program.load("program.json")
for name, predictor in program.named_predictors():
    assert predictor.signature.instructions == "Be brief — now.", name
    assert dict(predictor.demos[0])["question"] == "naïve?", name
    assert dict(predictor.demos[0])["answer"] == 0.5, name
assert not [name for name in sys.modules if name.startswith("swarmc.")]
print("loaded")
"""
    environment = {**os.environ, "PYTHONUTF8": "1"}
    command = [sys.executable, "-W", "error::UserWarning:dspy", "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == ("loaded\n", 0), run.stderr


def test_a_saved_program_has_the_same_bytes_every_time() -> None:
    saved = {load("Chain").saved(candidate_of(load("Chain"), "x")) for _ in range(3)}
    assert len(saved) == 1


def test_a_proposer_reads_the_programs_code() -> None:
    assert "class Chain(dspy.Module)" in load("Chain").source()
    assert "question -> answer" in load_program("question -> answer").source()


def test_typed_fields_are_described_by_their_type() -> None:
    program = load_program("text -> label: Literal['a', 'b'], price: float, tags: list[str]")
    annotations = [field.annotation for field in program.describe().predictors["self"].outputs]
    as_schemas = ['{"enum":["a","b"],"type":"string"}', "float", '{"items":{"type":"string"},"type":"array"}']
    assert annotations == as_schemas


def test_a_changed_constraint_of_a_type_changes_the_compiled_id(tmp_path: Path) -> None:
    ids = set()
    for limit in (5, 9):
        path = tmp_path / f"rated_{limit}.py"
        path.write_text(
            "import dspy, pydantic\n"
            "class Rated(pydantic.BaseModel):\n"
            f"    stars: int = pydantic.Field(le={limit})\n"
            "class Rate(dspy.Signature):\n"
            "    text: str = dspy.InputField()\n"
            "    rated: Rated = dspy.OutputField()\n"
        )
        described = load_program(f"{path}:Rate").describe().model_copy(update={"program": "the same"})
        ids.add(described.content_id)
    assert len(ids) == 2
