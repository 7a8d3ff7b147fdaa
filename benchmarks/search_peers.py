"""DSPy's own optimizers on a hidden world: MIPROv2 as it comes, MIPROv2 tuned by hand, GEPA."""

# ruff: noqa: ARG001 - the arguments of a metric are DSPy's

import contextlib
import io
import logging
import time

import dspy

from benchmarks.worlds import GIVEN, LABELS, Model, World, shown_by
from swarmc.compiler.engine import to_request, to_response
from swarmc.contracts.completions import Completion, CompletionRequest, Sampling

TRAIN, VALIDATION = 100, 300
WARM_PPM = 500_000


def complete(model: Model, request: CompletionRequest) -> Completion:
    """The world's answer to one request."""
    warm = (request.sampling.temperature_ppm or 0) >= WARM_PPM
    messages = [(message.role, message.content) for message in request.messages]
    return Completion(text=model.answer(messages, warm=warm, sample=request.rollout_id), model="world")


class WorldEngine:
    """A DSPy engine that answers in this process, after `latency_s`."""

    def __init__(self, model: Model, latency_s: float) -> None:
        self._model = model
        self._latency_s = latency_s

    def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
        before = self._model.calls
        completion = complete(self._model, to_request(request, "swarm", 0, Sampling()))
        if self._latency_s and self._model.calls > before:
            time.sleep(self._latency_s)
        return to_response(completion)


class TwoSteps(dspy.Module):
    """ticket -> topic, then (ticket, topic) -> label."""

    def __init__(self) -> None:
        super().__init__()
        self.topic = dspy.Predict("ticket -> topic")
        self.label = dspy.Predict("ticket, topic -> label")

    def forward(self, ticket: str) -> dspy.Prediction:
        """The label, by way of the topic."""
        topic = self.topic(ticket=ticket).topic
        return dspy.Prediction(topic=topic, label=self.label(ticket=ticket, topic=topic).label)

    async def aforward(self, ticket: str) -> dspy.Prediction:
        """As `forward`."""
        topic = (await self.topic.acall(ticket=ticket)).topic
        return dspy.Prediction(topic=topic, label=(await self.label.acall(ticket=ticket, topic=topic)).label)


def program_of(world: World) -> dspy.Module:
    """The program that the world is about."""
    return TwoSteps() if world.family == "two" else dspy.Predict("ticket -> label")


def examples_of(world: World) -> list[dspy.Example]:
    """The tickets that an optimizer may use."""
    rows = zip(world.texts[:GIVEN], world.labels[:GIVEN], strict=True)
    return [dspy.Example(ticket=text, label=LABELS[int(label)]).with_inputs("ticket") for text, label in rows]


def true_score(world: World, program: dspy.Module) -> float:
    """The mean chance of a right label over the held-out tickets."""
    predictors = dict(program.named_predictors())
    found = predictors if world.family == "two" else {"label": next(iter(predictors.values()))}
    return world.true_score(
        [shown_by(world, s, found[s].signature.instructions, [dict(d) for d in found[s].demos]) for s in world.steps]
    )


def right(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """The metric."""
    return example.label == prediction.label


def told(
    gold: dspy.Example,
    pred: dspy.Prediction,
    trace: object = None,
    pred_name: str | None = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """The metric with feedback."""
    good = gold.label == pred.label
    where = "expected_topic " if pred_name == "topic" else ""
    return dspy.Prediction(score=float(good), feedback="right" if good else f"{where}expected {gold.label}")


def run_peer(kind: str, world: World, seed: int, latency_s: float = 0.0, threads: int = 1) -> dict:
    """Run `medium`, `tuned` or `gepa`; calls, kinds, wall seconds and the true score."""
    model = Model(world, seed)
    lm = dspy.LM("world", engine=WorldEngine(model, latency_s), cache=False, num_retries=0)
    examples = examples_of(world)
    train, validation = examples[:TRAIN], examples[TRAIN : TRAIN + VALIDATION]
    logging.disable(logging.CRITICAL)
    began_s = time.perf_counter()
    quiet = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(), disable_history=True), quiet[0], quiet[1]:
        compiled = _compiled(kind, program_of(world), (train, validation), seed, threads)
    wall_s = time.perf_counter() - began_s
    logging.disable(logging.NOTSET)
    return {
        "calls": model.calls,
        "kinds": model.kinds,
        "tokens": model.tokens,
        "wall_s": wall_s,
        "true": true_score(world, compiled),
    }


def _compiled(kind: str, student: dspy.Module, data: tuple[list, list], seed: int, threads: int) -> dspy.Module:
    train, validation = data
    if kind == "gepa":
        reflection_lm = dspy.settings.lm.copy(temperature=1.0)
        gepa = dspy.GEPA(metric=told, auto="light", reflection_lm=reflection_lm, num_threads=threads, seed=seed + 1)
        return gepa.compile(student, trainset=train, valset=validation)
    if kind == "medium":
        mipro = dspy.MIPROv2(metric=right, auto="medium", num_threads=threads, seed=seed + 1)
        return mipro.compile(student, trainset=train, valset=validation)
    mipro = dspy.MIPROv2(metric=right, auto=None, num_candidates=12, num_threads=threads, seed=seed + 1)
    return mipro.compile(student, trainset=train, valset=validation[:100], num_trials=18, minibatch_full_eval_steps=9)
