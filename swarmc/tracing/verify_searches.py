"""What a search claims of its candidates, in the cheap lane and in the better one, held to the pools they come from."""

from swarmc.contracts.candidates import SearchResult
from swarmc.tracing.evidence import Evidence, chosen
from swarmc.tracing.findings import Notes


def check_searches(evidence: Evidence, notes: Notes) -> None:
    """Candidates' ids follow from the pools and the choices."""
    if evidence.searched is None:
        notes.open.append("the search: it is not in the bundle")
        return
    before = len(notes.faults)
    _entered(evidence, evidence.searched, "search.json", notes)
    if evidence.climbed is not None:
        _entered(evidence, evidence.climbed.result, "climb.json", notes)
    trials = sum(len(one.trials) for one in evidence.searches)
    measured = sum(len(one.measured) for one in evidence.searches)
    notes.done(before, f"the candidates of {trials} trials and {measured} measurements")
    notes.open.append(
        "the search's own scores: which examples each candidate met is in no file; `swarmc replay` makes them anew"
    )


def _entered(evidence: Evidence, searched: SearchResult, name: str, notes: Notes) -> None:
    """The candidates of one search."""
    line = evidence.line(name)
    if searched.study is not None and evidence.is_whole(name):
        pools = searched.study.pools
        told = [(f"trial {trial.number}", trial.choice, trial.candidate_id) for trial in searched.trials]
        told += [(f"measured {place}", one.choice, one.candidate_id) for place, one in enumerate(searched.measured)]
        known: dict[str, str] = {}
        for what, choice, candidate_id in told:
            key = repr(sorted(choice.items()))
            if key not in known:
                one = chosen(pools, choice)
                known[key] = one.content_id if one else "nothing: the pools have no such choice"
            right = known[key]
            notes.expect(right == candidate_id, line, f"{what}: its choice is {right}, not {candidate_id}")
    entered = {one.candidate_id for one in searched.measured}
    for candidate, _ in searched.finalists if evidence.is_whole(name) and entered else ():
        notes.expect(candidate.content_id in entered, line, f"finalist {candidate.content_id} was never measured")
