"""Agreement: an example is run again, in another sample, until enough runs say the same or cannot any more.

The first run is the plain one, so that it is shared with whoever believes one run. What is bought is
decided by answers alone, one after the other, and every answer is in the ledger: a group that is
asked again comes to the same and buys nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from swarmc.compiler.awaiting import gather_or_cancel
from swarmc.compiler.evaluation import Evaluator, Run
from swarmc.compiler.intervals import mean_score
from swarmc.compiler.judges import Judge
from swarmc.compiler.sameness import Said, judged_same, normal, said
from swarmc.contracts.candidates import Candidate, Evaluation, Outcome, RunCost
from swarmc.contracts.completions import Lane
from swarmc.contracts.verification import Group, Redundancy, Verification, Voice, Vote


@final
@dataclass
class Ballot:
    """Votes for camps, until `agree` of at most `of` are for one, or cannot come to be."""

    agree: int
    of: int
    votes: list[int] = field(default_factory=list)

    def add(self, camp: int) -> None:
        self.votes.append(camp)

    @property
    def leader(self) -> int:
        """The largest camp; of equals the one with the first vote."""
        return max(dict.fromkeys(self.votes), key=self.votes.count)

    @property
    def is_decided(self) -> bool:
        return bool(self.votes) and self.votes.count(self.leader) >= self.agree

    @property
    def is_over(self) -> bool:
        """Another vote would change nothing."""
        most = self.votes.count(self.leader) if self.votes else 0
        return self.is_decided or most + self.of - len(self.votes) < self.agree


@dataclass(frozen=True)
class Agreed:
    """An evaluation, and the groups that its outcomes come from; none where one run was believed."""

    evaluation: Evaluation
    groups: tuple[Group, ...] = ()


@final
class Panel:
    """Runs candidates as often as redundancy asks.

    Args:
        evaluator: Runs them.
        asked: How many must agree, on what.
        lane: Where.
        tell: Told of every group, when it is over.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        asked: Redundancy,
        lane: Lane = "validation",
        tell: Callable[[Group], None] = lambda group: None,  # noqa: ARG005
    ) -> None:
        self._evaluator = evaluator
        self._asked = asked
        self._lane: Lane = lane
        self._tell = tell
        self._judge = Judge(evaluator.lm)
        outputs = [name for info in evaluator.program.predictors.values() for name in info.outputs]
        self._outputs = frozenset(outputs)

    async def evaluate(self, candidate: Candidate, example_ids: Sequence[str]) -> Agreed:
        """Score a candidate by what its runs agree on; where they do not, the largest camp stands.

        Errors are those of `Evaluator.evaluate`, and of the judge's lane where that is asked.
        """
        found = await gather_or_cancel(self._group(candidate, key) for key in example_ids)
        outcomes = [outcome for outcome, _ in found]
        return Agreed(scored(candidate.content_id, outcomes), tuple(group for _, group in found))

    async def _group(self, candidate: Candidate, key: str) -> tuple[Outcome, Group]:
        ballot, firsts, runs = Ballot(self._asked.agree, self._asked.of), list[Run](), list[Run]()
        while not ballot.is_over:
            run = await self._evaluator.ask(candidate, key, lane=self._lane, rollout_id=len(runs))
            camp = await self._camp(key, run, firsts)
            if camp == len(firsts):
                firsts.append(run)
            runs.append(run)
            ballot.add(camp)
        votes = [
            Vote(camp=camp, score_ppm=run.outcome.score_ppm, voices=run.voices)
            for camp, run in zip(ballot.votes, runs, strict=True)
        ]
        group = Group(
            candidate_id=candidate.content_id,
            example_id=key,
            votes=tuple(votes),
            camp=ballot.leader,
            decided=ballot.is_decided,
        )
        self._tell(group)
        cost = sum((run.outcome.cost for run in runs), start=RunCost())
        return firsts[ballot.leader].outcome.model_copy(update={"cost": cost}), group

    async def _camp(self, key: str, run: Run, firsts: Sequence[Run]) -> int:
        """The camp of a run: the first whose first run says the same, else a new one.

        Runs without an answer are of one camp: that the program gives none is something to agree on as well.
        """
        if self._asked.by == "metric":
            return _place(run.outcome.score_ppm, [first.outcome.score_ppm for first in firsts])
        answers = [self._said(key, first) for first in firsts]
        mine = self._said(key, run)
        camp = _place(mine and normal(mine), [answer and normal(answer) for answer in answers])
        if self._asked.by == "answer" or camp < len(firsts) or mine is None:
            return camp
        for place, answer in enumerate(answers):
            if answer is not None and await judged_same(self._judge, self._evaluator.example(key), answer, mine):
                return place
        return camp

    def _said(self, key: str, run: Run) -> Said | None:
        if run.prediction is None:
            return None
        return said(self._asked, self._evaluator.example(key), run.prediction, self._outputs)


def scored(candidate_id: str, outcomes: Sequence[Outcome]) -> Evaluation:
    """An evaluation of these outcomes."""
    score = mean_score([outcome.score_ppm for outcome in outcomes])
    return Evaluation(candidate_id=candidate_id, outcomes=tuple(outcomes), score=score)


def with_answers(evaluation: Evaluation, answers: Mapping[str, Outcome]) -> Evaluation:
    """The evaluation with better answers by example, each with what both took."""
    outcomes = [
        answers[one.example_id].model_copy(update={"cost": one.cost + answers[one.example_id].cost})
        if one.example_id in answers
        else one
        for one in evaluation.outcomes
    ]
    return scored(evaluation.candidate_id, outcomes)


def verification_of(asked: Redundancy, test: Iterable[Group], others: Iterable[Group] = ()) -> Verification:
    """How far scores are verified by agreement alone; groups that are told twice count once."""
    kept = {(group.candidate_id, group.example_id): group for group in test}
    every = kept | {(group.candidate_id, group.example_id): group for group in others}
    return Verification(asked=asked, groups=tuple(kept.values()), voices=_voices(every.values()))


def _voices(groups: Iterable[Group]) -> tuple[Voice, ...]:
    runs: Counter[str] = Counter()
    dissents: Counter[str] = Counter()
    for group in groups:
        for vote in group.votes if group.decided else ():
            runs.update(vote.voices)
            dissents.update(vote.voices if vote.camp != group.camp else ())
    found = [Voice(voice=voice, runs=count, dissents=dissents[voice]) for voice, count in runs.items()]
    return tuple(sorted(found, key=lambda one: (-one.dissents, one.voice)))


def _place(value: object, values: Sequence[object]) -> int:
    return next((place for place, other in enumerate(values) if other == value), len(values))
