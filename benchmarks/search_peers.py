"""DSPy's own optimizers on a hidden world: MIPROv2 as it comes, MIPROv2 tuned by hand, GEPA, COPRO.

Over HTTP they use DSPy's native client without its cache: the server answers a repeated request at
once and does not count it, so they lose nothing by that and save the cache's time.
"""

# ruff: noqa: ARG001 - the arguments of a metric are DSPy's

import contextlib
import io
import logging
import time
from collections.abc import Iterator

import dspy

from benchmarks.search_model import WARM, Model
from benchmarks.search_server import Door, WorldServer
from benchmarks.worlds import LABELS, World, shown_by
from swarmc.compiler.engine import to_request, to_response
from swarmc.contracts.canonical import PPM
from swarmc.contracts.completions import Completion, CompletionRequest, Sampling

TRAIN, VALIDATION = 100, 300
TUNED_VALIDATION = 100


def complete(model: Model, request: CompletionRequest) -> Completion:
    """The world's answer to one request."""
    warm = (request.sampling.temperature_ppm or 0) >= WARM * PPM
    messages = [(message.role, message.content) for message in request.messages]
    return Completion(text=model.answer(messages, warm=warm, sample=request.rollout_id), model="world")


class WorldEngine:
    """A DSPy engine that answers in this process."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
        return to_response(complete(self._model, to_request(request, "swarm", 0, Sampling())))


def in_process_lm(model: Model) -> dspy.LM:
    """A world's model without a network."""
    return dspy.LM("world", engine=WorldEngine(model), cache=False, num_retries=0)


def http_lm(door: Door, server: WorldServer) -> dspy.LM:
    """A world's model as DSPy's native client asks it."""
    return dspy.LM(f"openai/{door.name}", api_base=server.base_url, api_key="x", cache=False, num_retries=0)


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
    return [
        dspy.Example(ticket=world.texts[i], label=LABELS[int(world.labels[i])]).with_inputs("ticket")
        for i in world.given
    ]


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


def run_peer(kind: str, door: Door, server: WorldServer | None = None, threads: int = 1) -> dict:
    """Run one of `PEERS`; the counts, wall seconds and the true score.

    Args:
        kind: Which.
        door: The world.
        server: Where it is served; `None` answers in this process, with one thread and no latency.
        threads: DSPy's `num_threads`.
    """
    model = door.model()
    lm = in_process_lm(model) if server is None else http_lm(door, server)
    examples = examples_of(door.world)
    data = examples[:TRAIN], examples[TRAIN : TRAIN + VALIDATION]
    began_s, cpu_s = time.perf_counter(), time.process_time()
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(), disable_history=True), quiet():
        compiled = PEERS[kind](program_of(door.world), *data, door.seed + 1, threads)
    took = {"wall_s": time.perf_counter() - began_s, "cpu_s": time.process_time() - cpu_s}
    counts = model.counts() if server is None else server.stats(door)
    return {**counts, **took, "true": true_score(door.world, compiled)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep DSPy's log and its progress bars off the terminal."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _medium(student: dspy.Module, train: list, validation: list, seed: int, threads: int) -> dspy.Module:
    mipro = dspy.MIPROv2(metric=right, auto="medium", num_threads=threads, seed=seed)
    return mipro.compile(student, trainset=train, valset=validation)


def _tuned(student: dspy.Module, train: list, validation: list, seed: int, threads: int) -> dspy.Module:
    mipro = dspy.MIPROv2(metric=right, auto=None, num_candidates=12, num_threads=threads, seed=seed)
    fewer = validation[:TUNED_VALIDATION]
    return mipro.compile(student, trainset=train, valset=fewer, num_trials=18, minibatch_full_eval_steps=9)


def _gepa(student: dspy.Module, train: list, validation: list, seed: int, threads: int) -> dspy.Module:
    reflection_lm = dspy.settings.lm.copy(temperature=1.0)
    gepa = dspy.GEPA(metric=told, auto="light", reflection_lm=reflection_lm, num_threads=threads, seed=seed)
    return gepa.compile(student, trainset=train, valset=validation)


def _copro(student: dspy.Module, train: list, validation: list, seed: int, threads: int) -> dspy.Module:
    copro = dspy.COPRO(metric=right, breadth=10, depth=3)
    return copro.compile(student, trainset=validation, eval_kwargs={"num_threads": threads, "display_progress": False})


PEERS = {"medium": _medium, "tuned": _tuned, "gepa": _gepa, "copro": _copro}
