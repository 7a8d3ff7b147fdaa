"""Reports that a person wants to read: one Markdown page per stage, under 100 kB each."""

import difflib
from collections.abc import Mapping, Sequence

from swarmc.compiler.datasets import SPLITS, Splits
from swarmc.compiler.pictures import markdown_image, score_over_trials
from swarmc.contracts.candidates import Candidate, Comparison, Demo, Pools, Score, SearchResult
from swarmc.contracts.manifest import CompiledModuleManifest
from swarmc.contracts.money import Account, Tally
from swarmc.contracts.spec import CompileSpec

MAX_PAGE_CHARS = 95_000
MAX_CELL_CHARS = 160
LEADERS = 12
SHOWN_DEMOS = 8


def load_report(spec: CompileSpec, splits: Splits, chosen_venues: Mapping[str, str], notes: Sequence[str]) -> str:
    """What will be compiled, on which examples, by which models."""
    examples = [[name, str(splits.refs[name].count), f"`{splits.refs[name].dataset_id[:19]}`"] for name in SPLITS]
    lanes = [[lane, sentence] for lane, sentence in chosen_venues.items()]
    return page(
        f"# {spec.name}: what is compiled",
        f"Program `{spec.program}`, metric `{spec.metric}`, optimizer {spec.optimizer}, seed {spec.seed}.",
        "## Examples",
        table(["split", "examples", "hash"], examples),
        f"{splits.duplicates} equal examples were dropped." if splits.duplicates else "",
        "## Lanes",
        table(["lane", "where its calls run"], lanes),
        *(f"> {note}" for note in notes),
    )


def bootstrap_report(demo_sets: Mapping[str, Sequence[Sequence[Demo]]]) -> str:
    """How many demonstrations were found, and what they look like."""
    parts = ["# Demonstrations"]
    for name, sets in demo_sets.items():
        made = sum(demo.augmented for demos in sets for demo in demos)
        parts += [f"## `{name}`: {len(sets)} sets, {made} demonstrations made by program runs"]
        rows = [[str(i), str(len(demos)), _brief(_demo_text(demos[:2])) or "none"] for i, demos in enumerate(sets)]
        parts += [table(["set", "size", "begins with"], rows)]
    return page(*parts)


def propose_report(instructions: Mapping[str, Sequence[str]]) -> str:
    """Every instruction that the search may choose."""
    parts = ["# Instructions"]
    for name, texts in instructions.items():
        parts += [f"## `{name}`", *(f"{i}. {_brief(text, 600)}" for i, text in enumerate(texts))]
    return page(*parts, "\nNumber 0 is the program's own.")


def search_report(result: SearchResult, pools: Pools) -> str:
    """Leaderboard, score over trials as a picture, and what the leader changed in the prompt."""
    if not result.trials:
        return page("# Search", "The budget ran out before one trial was scored.")
    last = {trial.candidate_id: trial for trial in result.trials}
    best = sorted(last.values(), key=lambda trial: (-trial.score.mean_ppm, -trial.score.count))[:LEADERS]
    rows = [[str(t.number), _interval(t.score), _choice(t.choice)] for t in best]
    leader, score = result.finalists[0]
    return page(
        "# Search",
        f"{len(result.trials)} trials of {_space(pools)} combinations; {len(last)} distinct ones were tried."
        + (" **The budget ran out; this is the best so far.**" if result.ended == "budget" else ""),
        markdown_image(score_over_trials(result.trials), "score over trials"),
        "## Leaderboard",
        table(["trial", "score on search examples", "instruction / demonstration set"], rows),
        f"## What the leader changed ({score})",
        prompt_changes(pools.baseline, leader),
    )


def validate_report(comparison: Comparison | None, finalists: Sequence[tuple[Candidate, Score]]) -> str:
    """The finalists on validation examples, then winner against baseline on test examples."""
    rows = [[str(i), _interval(score)] for i, (_, score) in enumerate(finalists)]
    parts = ["# Validation", table(["finalist", "score on validation examples"], rows) if rows else ""]
    if comparison is None:
        return page(*parts, "**The budget ran out before the test examples were scored: no score may be claimed.**")
    failures = [o.failure for o in comparison.winner.outcomes if o.failure]
    return page(
        *parts,
        "## Test examples, which no choice has seen",
        table(
            ["", "score", "examples"],
            [
                ["uncompiled", _interval(comparison.baseline.score), str(comparison.baseline.score.count)],
                ["compiled", _interval(comparison.winner.score), str(comparison.winner.score.count)],
                ["difference, paired", _interval(comparison.improvement), str(comparison.improvement.count)],
            ],
        ),
        f"Verdict: **{comparison.verdict}**.",
        f"{len(failures)} test examples failed, for example: {_brief(failures[0])}" if failures else "",
    )


def final_report(
    name: str, manifest: CompiledModuleManifest, account: Account, before: Candidate, after: Candidate
) -> str:
    """Before and after, cost by stage and lane, manifest."""
    card = manifest.scorecard
    rows = [
        ["uncompiled program", _interval(card.baseline_score)],
        ["compiled program", _interval(card.truth_score)],
        ["difference, paired", _interval(card.improvement)],
        ["winner on the search examples (flattering)", _interval(card.proxy_score)],
    ]
    files = [[name, f"`{uri}`"] for name, uri in manifest.artifacts.items()]
    return page(
        f"# {name}: {manifest.verdict}",
        f"Program `{manifest.program}`, compiled id `{manifest.compiled_id}`.",
        table(["", "score, 95 % interval"], rows),
        "## Cost",
        account_table(account),
        "## What changed in the prompt",
        prompt_changes(before, after),
        "## Files",
        table(["file", "hash"], files),
    )


def account_table(account: Account) -> str:
    """Cost by stage and lane, with the sum."""
    rows = [[line.stage, line.lane, *_tally(line.tally)] for line in account.lines]
    rows.append(["**all**", "", *_tally(account.total)])
    return table(["stage", "lane", "bought", "already paid for", "lost", "tokens in", "tokens out", "msats"], rows)


def prompt_changes(before: Candidate, after: Candidate) -> str:
    """A diff of the instructions, and the demonstrations that were added."""
    parts = []
    for name, choice in after.predictors.items():
        own = before.predictors[name]
        diff = list(difflib.ndiff(own.instruction.splitlines(), choice.instruction.splitlines()))
        changed = [line for line in diff if not line.startswith("?")]
        parts += [f"### `{name}`", "```diff", *changed, "```"]
        if choice.demos:
            parts += [f"{len(choice.demos)} demonstrations:", "```", _demo_text(choice.demos[:SHOWN_DEMOS]), "```"]
    return "\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars and line breaks in cells are made harmless."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def page(*parts: str) -> str:
    """Parts with blank lines between them, cut at the size a browser still shows quickly."""
    text = "\n\n".join(part for part in parts if part)
    return text if len(text) <= MAX_PAGE_CHARS else text[:MAX_PAGE_CHARS] + "\n\n... cut"


def _tally(tally: Tally) -> list[str]:
    numbers = (
        tally.calls,
        tally.reused,
        tally.lost,
        tally.prompt_tokens,
        tally.completion_tokens,
        tally.msats + tally.lost_msats,
    )
    return [f"{number:,}" for number in numbers]


def _interval(score: Score | None) -> str:
    return "not measured" if score is None else str(score)


def _choice(choice: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name}: {i} / {d}" for name, (i, d) in choice.items())


def _space(pools: Pools) -> str:
    size = 1
    for name in pools.instructions:
        size *= len(pools.instructions[name]) * len(pools.demo_sets[name])
    return f"{size:,}"


def _demo_text(demos: Sequence[Demo]) -> str:
    return "\n".join("; ".join(f"{key}: {value}" for key, value in demo.fields.items()) for demo in demos)


def _brief(text: str, most: int = MAX_CELL_CHARS) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
