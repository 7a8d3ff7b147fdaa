"""Who writes instructions: a model grounded in data and code, or a template for models that cannot.

The grounding (data summary, program code, demonstrations, a tip) is that of MIPROv2's proposer
(Opsahl-Ong et al. 2024); here it costs one call for the summary and one per instruction, and all
instructions are asked for at once.
"""

import asyncio
import copy
from collections.abc import Mapping, Sequence

import dspy

from swarmc.compiler.evaluation import Evaluator, gather_or_cancel
from swarmc.compiler.scope import scoped
from swarmc.compiler.studies import fresh_instructions
from swarmc.contracts.candidates import Demo, PredictorInfo
from swarmc.contracts.completions import Stage
from swarmc.contracts.ports import Workbench

TIPS = (
    "Keep the instruction clear and concise.",
    "Make the instruction very informative and descriptive.",
    "Say exactly what form the output must have, and what it must not contain.",
    "Name the cases that are easily confused, and say how to tell them apart.",
    "Give the model a role that fits the task.",
    "Describe the steps to take before answering.",
    "Say what matters in the input and what to ignore.",
    "Do not be afraid to be creative.",
    "State the decision rule that the examples follow.",
    "Write it for a reader who has never seen this task.",
    "Mention the stakes of a wrong answer.",
    "Use as few words as you can.",
)
PROPOSAL_TEMPERATURE = 1.0
SUMMARY_EXAMPLES = 12
SHOWN_DEMOS = 3
MAX_SHOWN_CHARS = 4_000
MAX_ROUNDS = 4


class SummarizeDataset(dspy.Signature):
    """From these examples of a dataset, describe in two or three sentences the task behind them.

    Say what the inputs look like, what the outputs look like, and how the outputs follow from the inputs.
    """

    examples: str = dspy.InputField()
    summary: str = dspy.OutputField()


class WriteInstruction(dspy.Signature):
    """Write a new instruction for one step of a language model program, so that a model does the step better.

    The instruction must stand alone. Write only its text.
    """

    program_code: str = dspy.InputField(desc="the program the step belongs to")
    step: str = dspy.InputField(desc="the step: its input fields, its output fields")
    dataset_summary: str = dspy.InputField()
    demonstrations: str = dspy.InputField(desc="what the step was asked and answered")
    current_instruction: str = dspy.InputField()
    tip: str = dspy.InputField(desc="what to pay attention to while writing")
    instruction: str = dspy.OutputField()


class LanguageModelProposer:
    """Asks the `propose` lane. Its requests carry sample numbers, so a repeated run reads them from the ledger."""

    def __init__(self, evaluator: Evaluator, examples: Sequence[dspy.Example], stage: Stage = "propose") -> None:
        self._evaluator = evaluator
        self._examples = examples
        self._stage: Stage = stage
        self._lm = evaluator.lm("propose").copy(temperature=PROPOSAL_TEMPERATURE)
        self._adapter = _asking_once(evaluator.adapter)
        self._summary: asyncio.Task[str] | None = None

    async def prepare(self) -> None:
        """Have the data summarised, once. Raises nothing: what went wrong is raised by `propose`."""
        if self._summary is None:
            self._summary = asyncio.ensure_future(self._summarize())
        await asyncio.wait([self._summary])

    async def propose(self, name: str, info: PredictorInfo, demos: Sequence[Demo], count: int) -> list[str]:
        """Up to `count` distinct instructions, in an order that does not depend on timing.

        Answers that repeat one another or cannot be read are asked for again: at most `count` and a half
        calls in all, beside the one summary.

        Raises:
            BudgetExhausted: they could not all be bought.
            VenueError: the lane stayed down.
        """
        if count < 1:
            return []
        await self.prepare()
        assert self._summary is not None
        summary = self._summary.result()
        found: dict[str, None] = {}
        asked, most = 0, count + -(-count // 2)
        for _ in range(MAX_ROUNDS):
            missing = min(count - len(found), most - asked)
            if missing <= 0:
                break
            written = await gather_or_cancel(self._write(name, info, demos, summary, asked + i) for i in range(missing))
            asked += missing
            found.update(dict.fromkeys(text for text in written if text and text != info.instruction))
        return list(found)[:count]

    async def _summarize(self) -> str:
        shown = _clip("\n".join(_show(dict(example)) for example in self._examples[:SUMMARY_EXAMPLES]))
        return await self._ask(SummarizeDataset, "summary", 0, examples=shown)

    async def _write(self, name: str, info: PredictorInfo, demos: Sequence[Demo], summary: str, number: int) -> str:
        return await self._ask(
            WriteInstruction,
            "instruction",
            number,
            program_code=_clip(self._evaluator.program.source()),
            step=f"{name}: {', '.join(info.inputs)} -> {', '.join(info.outputs)}",
            dataset_summary=summary,
            demonstrations=_clip("\n".join(_show(demo.fields) for demo in demos[:SHOWN_DEMOS])) or "none",
            current_instruction=info.instruction,
            tip=TIPS[number % len(TIPS)],
        )

    async def _ask(self, signature: type[dspy.Signature], field: str, number: int, **inputs: str) -> str:
        """One field of one answer; empty when the model's answer cannot be read."""
        settings = {"lm": self._lm, "adapter": self._adapter, "trace": None, "disable_history": True}
        with scoped(self._stage, rollout_id=number) as scope, dspy.context(**settings):
            try:
                answer = await dspy.Predict(signature).acall(**inputs)
            except dspy.AdapterParseError:
                return ""
            except Exception:
                if scope.failures:
                    raise scope.failures[0] from None
                raise
        return str(getattr(answer, field, "") or "").strip()


async def ask_plainly(evaluator: Evaluator, prompt: str, rollout_id: int) -> str:
    """The `propose` lane's answer to a prompt that is no signature's.

    Raises:
        BudgetExhausted: the call could not be bought.
        VenueError: the lane stayed down.
    """
    lm = evaluator.lm("propose").copy(temperature=PROPOSAL_TEMPERATURE)
    with scoped(rollout_id=rollout_id) as scope, dspy.context(trace=None, disable_history=True):
        try:
            answers = await lm.acall(prompt=prompt)
        except Exception:
            if scope.failures:
                raise scope.failures[0] from None
            raise
    first = answers[0] if answers else ""
    return (first if isinstance(first, str) else str(first.get("text") or "")).strip()


async def propose_for_all(
    bench: Workbench, demo_sets: Mapping[str, Sequence[Sequence[Demo]]]
) -> dict[str, tuple[str, ...]]:
    """Instructions by predictor, its own first; a writer is shown the predictor's last demonstration set.

    After an earlier search only a few are asked for: the best of its own come with the study. All
    predictors' instructions are awaited together. The first error cancels the others.
    """
    shown = {name: next((demos for demos in reversed(demo_sets[name]) if demos), ()) for name in bench.predictors}
    found = await gather_or_cancel(
        bench.instructions(name, demos, count=fresh_instructions(bench, name)) for name, demos in shown.items()
    )
    return {
        name: (info.instruction, *texts) for (name, info), texts in zip(bench.predictors.items(), found, strict=True)
    }


def _asking_once(adapter: dspy.Adapter) -> dspy.Adapter:
    """The adapter without its second asking as JSON: what cannot be read is asked for anew, and counted."""
    if not isinstance(adapter, dspy.ChatAdapter):
        return adapter
    once = copy.copy(adapter)
    once.use_json_adapter_fallback = False
    return once


def template_instructions(info: PredictorInfo, labels: Sequence[str], count: int) -> list[str]:
    """Instructions from field names and data alone, for models that cannot write any.

    Args:
        info: The predictor.
        labels: Distinct values of its output field, when they are few enough to be classes; else empty.
        count: How many at most.
    """
    given, wanted = _and(info.inputs), _and(info.outputs)
    classes = f"Choose from: {', '.join(labels)}." if labels else ""
    texts = [
        f"Given the {given}, give the {wanted}.",
        f"Read the {given} carefully, then write the {wanted}. {classes}",
        f"Classify the {given} and answer with the {wanted}. {classes}",
        f"You are an expert. Decide the {wanted} of the {given}.",
        f"Look at the examples, find the rule that leads from the {given} to the {wanted}, and apply it.",
        f"Answer with the {wanted} only. Do not explain. {classes}",
        f"Which {wanted} belongs to this {given}? {classes}",
        f"Extract from the {given} what decides the {wanted}, then write the {wanted}.",
        f"Map each {given} to its {wanted} exactly as the examples do.",
        f"Think step by step about the {given}, then give the {wanted}.",
        f"Label the {given}. The label is the {wanted}. {classes}",
        f"Write the {wanted} for the {given}. Be exact. If unsure, take the best guess.",
    ]
    distinct = dict.fromkeys(" ".join(text.split()) for text in texts)
    return [text for text in distinct if text != info.instruction][:count]


def _and(names: Sequence[str]) -> str:
    return " and ".join(name.replace("_", " ") for name in names)


def _show(fields: dict) -> str:
    return "; ".join(f"{name}: {value}" for name, value in fields.items() if name != "augmented")


def _clip(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + " ..."
