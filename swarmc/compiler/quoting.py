"""What a completion will cost, asked of the venues before anything is bought, with prompts of the compile's size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from swarmc.compiler import sameness
from swarmc.compiler.answers import Answered
from swarmc.compiler.costs import Price
from swarmc.compiler.judges import prompt
from swarmc.compiler.programs import Program
from swarmc.compiler.proposing import MAX_SHOWN_CHARS
from swarmc.contracts.completions import CompletionRequest, Lane, Message, Role, Sampling
from swarmc.contracts.metrics import JudgePart
from swarmc.contracts.ports import Venue
from swarmc.contracts.verification import Redundancy

SHOWN_PARTS = 3
LOOKED_AT = 200


@dataclass(frozen=True)
class Quoted:
    """A lane to be asked for its price: its venue, and how it samples."""

    venue: Venue
    sampling: Sampling


def quotes(
    program: Program,
    adapter: dspy.Adapter,
    examples: Sequence[dspy.Example],
    demos: int,
    lanes: Mapping[Lane, Quoted],
    judges: Sequence[JudgePart | Redundancy] = (),
) -> dict[Lane, Price]:
    """By lane, the least and the most that one completion of the compile costs, in msats.

    The least is a bare prompt of the shortest example with one token of answer; the most, one of the
    longest example with `demos` demonstrations as long, and as long an answer as the lane allows.

    Raises:
        VenueError: a lane costs money and sets no `max_tokens`, so nothing can be reserved for it.
    """
    by_length = sorted(examples[:LOOKED_AT], key=lambda example: len(str(example.toDict())))
    short, long = by_length[0], by_length[-1]
    found = {}
    for lane, quoted in lanes.items():
        if lane == "propose":
            asked = [_message("user", "long text " * (SHOWN_PARTS * MAX_SHOWN_CHARS // 10))]
            found[lane] = _price(lane, quoted, [_message("user", "text")], asked)
            continue
        if lane == "judge":
            outputs = [name for info in program.predictors.values() for name in info.outputs]
            asks = [(_judged(part, short, outputs), _judged(part, long, outputs)) for part in judges]
            found[lane] = _from_to([_price(lane, quoted, least, most) for least, most in asks])
            continue
        signatures = [predictor.signature for predictor in program.module.predictors()]
        prices = [
            _price(lane, quoted, _prompt(adapter, s, short, []), _prompt(adapter, s, long, [long] * demos))
            for s in signatures
        ]
        found[lane] = _from_to(prices)
    return found


def _from_to(prices: Sequence[Price]) -> Price:
    """From the least to the most of several; the most is expected."""
    high = max((price.high for price in prices), default=0)
    return Price(low=min((price.low for price in prices), default=0), expected=high, high=high)


def _price(lane: Lane, quoted: Quoted, least: Sequence[Message], most: Sequence[Message]) -> Price:
    bare = quoted.sampling.model_copy(update={"max_tokens": 1})
    low = quoted.venue.quote(_request(lane, quoted.venue, least, bare))
    high = quoted.venue.quote(_request(lane, quoted.venue, most, quoted.sampling))
    return Price(low=low, expected=high, high=high)


def _request(lane: Lane, venue: Venue, messages: Sequence[Message], sampling: Sampling) -> CompletionRequest:
    return CompletionRequest(lane=lane, model=venue.model, messages=tuple(messages), sampling=sampling)


def _prompt(
    adapter: dspy.Adapter, signature: Any, example: dspy.Example, demos: Sequence[dspy.Example]
) -> list[Message]:
    """What the adapter would send; what an example lacks (another step's output) is taken as long as its inputs."""
    spare = " ".join(str(value) for value in example.inputs().values())
    inputs = {name: example.get(name, spare) for name in signature.input_fields}
    shown = [{**inputs, **{name: demo.get(name, spare) for name in signature.output_fields}} for demo in demos]
    return [_message(m["role"], str(m["content"])) for m in adapter.format(signature, shown, inputs)]


def _judged(part: JudgePart | Redundancy, example: dspy.Example, outputs: Sequence[str]) -> list[Message]:
    """What a judge would be sent of an answer that is the example's own, or as long as its inputs."""
    spare = " ".join(str(value) for value in example.inputs().values())
    if isinstance(part, Redundancy):
        return sameness.prompt(example, {name: str(example.get(name, spare)) for name in outputs})
    answer = dspy.Prediction(**{name: example.get(name, spare) for name in outputs})
    return prompt(part, Answered(example, answer, outputs))


def _message(role: Role, content: str) -> Message:
    return Message(role=role, content=content)
