"""Reflection: instructions written during a race, from what a good candidate got wrong.

After GEPA (Agrawal et al. 2025): a model reads a few failed examples (what the step was asked, what
it answered, what the metric said) and writes the next instruction. The failed runs are asked for
again with the same calls, which are known by then and cost nothing.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence

from swarmc.compiler.evaluation import gather_or_cancel
from swarmc.compiler.race import Race, Writing
from swarmc.contracts.candidates import Attempt, Candidate
from swarmc.contracts.canonical import PPM, ContentId
from swarmc.contracts.ports import Workbench

BEGIN, END = 0.2, 0.6
"""Between which shares of the runs instructions are written: before, failures say little; later, a new
instruction could not prove itself."""
SHOWN_FAILURES = 4
MAX_SHOWN_CHARS = 1_000
PROMPT = """You improve the instruction of one step of a language model program.
The step reads {inputs} and writes {outputs}. Its instruction is:

```
{instruction}
```

The program failed on these examples:

{failures}

Find out what went wrong, and write a better instruction: keep what is good in this one, and add what
would have prevented such failures, as rules that hold for all examples. It must stand alone.
Give its text within ``` and nothing else."""


class Reflections:
    """Decides when instructions are written, evenly between `BEGIN` and `END`, for all predictors in turn.

    Args:
        bench: Whose attempts and whose writer.
        units: Of the race, in all.
    """

    def __init__(self, bench: Workbench, units: int) -> None:
        self._bench = bench
        count = bench.spec.reflections
        shares = [BEGIN + (END - BEGIN) * number / count for number in range(count)]
        self._due = deque((share * units, name) for share in shares for name in bench.predictors)
        self._asked = 0

    def due(self, race: Race) -> str | None:
        """The predictor that an instruction should be written for now; each is named as often as was planned."""
        if not self._due or not race.may_write or race.asked < self._due[0][0]:
            return None
        return self._due.popleft()[1]

    def writing(self, race: Race, number: int, name: str, told: Callable[[Sequence[str]], None]) -> Writing:
        """Have one instruction written from an entry that failed somewhere.

        Args:
            race: Where its scores are.
            number: The entry.
            name: The predictor that the instruction is for.
            told: Called with the instruction, or with nothing.
        """
        entry = race.entries[number]
        self._asked += 1
        rollout_id = self._asked
        failed = failures(race, number)
        rng = random.Random(f"reflection:{self._bench.seed}:{rollout_id}")
        shown = rng.sample(failed, min(SHOWN_FAILURES, len(failed)))

        async def write() -> Sequence[str]:
            return await self._write(entry.candidate, name, shown, rollout_id)

        return Writing(write, told)

    async def _write(
        self, candidate: Candidate, name: str, example_ids: Sequence[ContentId], rollout_id: int
    ) -> Sequence[str]:
        attempts = await gather_or_cancel(self._bench.attempt(candidate, key) for key in example_ids)
        info = self._bench.predictors[name]
        prompt = PROMPT.format(
            inputs=", ".join(info.inputs),
            outputs=", ".join(info.outputs),
            instruction=candidate.predictors[name].instruction,
            failures="\n\n".join(_shown(record(attempt, info.inputs, name)) for attempt in attempts),
        )
        text = unfenced(await self._bench.write(prompt, rollout_id=rollout_id))
        return [text] if text else []


def failures(race: Race, number: int) -> list[ContentId]:
    """The examples that an entry met once and did not fully solve, in their order."""
    scores = race.entries[number].scores_ppm
    return [race.order[at] for at in sorted(scores) if at < len(race.order) and scores[at] < PPM]


def record(attempt: Attempt, inputs: Sequence[str], name: str) -> dict[str, object]:
    """One run as a reflection is shown it: inputs, outputs and what was said, under GEPA's names."""
    fields = attempt.steps[name].fields if name in attempt.steps else {}
    wanted = "; ".join(f"{label}: expected {value}" for label, value in attempt.expected.items())
    verdict = f"score {attempt.score_ppm / PPM:.2f}. "
    said = attempt.feedback or ("" if attempt.score_ppm == PPM else wanted)
    return {
        "Inputs": {key: value for key, value in fields.items() if key in inputs},
        "Generated Outputs": {key: value for key, value in fields.items() if key not in inputs},
        "Feedback": verdict + said,
    }


def unfenced(answer: str) -> str:
    """The text between the first pair of ```, or all of it."""
    parts = answer.split("```")
    return (parts[1] if len(parts) > 2 else answer).strip()


def _shown(said: dict[str, object]) -> str:
    lines = []
    for title, value in said.items():
        text = "; ".join(f"{key}: {one}" for key, one in value.items()) if isinstance(value, dict) else str(value)
        lines.append(f"{title}: {text[:MAX_SHOWN_CHARS]}")
    return "\n".join(lines)
