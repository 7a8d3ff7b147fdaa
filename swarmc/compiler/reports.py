"""Reports that a person wants to read: one Markdown page per stage, under 100 kB each."""

import difflib
from collections.abc import Mapping, Sequence

from swarmc.compiler import billing, pictures
from swarmc.compiler.datasets import SPLITS, Splits
from swarmc.compiler.intervals import Z_95
from swarmc.contracts.bill import Bill
from swarmc.contracts.candidates import (
    Candidate,
    Comparison,
    Demo,
    Effect,
    Pools,
    Score,
    SearchResult,
    Study,
    Trial,
    Validation,
)
from swarmc.contracts.manifest import CompiledModuleManifest
from swarmc.contracts.money import Account, Tally
from swarmc.contracts.plan import Plan
from swarmc.contracts.promotion import Promotion
from swarmc.contracts.spec import CompileSpec
from swarmc.contracts.transfer import Transfer
from swarmc.contracts.verification import Verification

MAX_PAGE_CHARS = 95_000
CUT, FENCE = "\n\n... cut", "\n```"
MAX_CELL_CHARS = 160
LEADERS = 12
BEST_INSTRUCTIONS = 5
MOST_PREDICTORS = 8
SHOWN_DEMOS = 8
MOST_VOICES = 50
SAID = ("redundancy", "dissent", "transfer", "climb", "sandbox")
"""Of a manifest's details, those that a person should read."""
TITLES = {
    "score.png": "Score over program runs",
    "effects.png": "What instructions (i) and demonstration sets (d) add: logits and their 95 % intervals",
    "front.png": "Score and cost",
}


def load_report(spec: CompileSpec, splits: Splits, chosen_venues: Mapping[str, str], notes: Sequence[str]) -> str:
    """What will be compiled, on which examples, by which models."""
    examples = [[name, str(splits.refs[name].count), f"`{splits.refs[name].dataset_id[:19]}`"] for name in SPLITS]
    lanes = [[lane, sentence] for lane, sentence in chosen_venues.items()]
    metric = spec.metric if isinstance(spec.metric, str) else spec.metric.title
    return page(
        f"# {spec.name}: what is compiled",
        f"Program `{spec.program}`, metric `{metric}`, optimizer {spec.optimizer}, seed {spec.seed}.",
        "## Examples",
        table(["split", "examples", "hash"], examples),
        f"{splits.duplicates} equal examples were dropped." if splits.duplicates else "",
        "## Lanes",
        table(["lane", "where its calls run"], lanes),
        *(f"> {note}" for note in notes),
    )


def plan_report(plan: Plan) -> str:
    """What every stage will ask for, from and to, and what had to be smaller than it was asked for."""
    cuts = [f"- {sentence}" for sentence in plan.cut]
    return page(
        "# Plan",
        f"The search makes up to {plan.runs:,} program runs over {plan.combinations:,} combinations.",
        table(["stage", "lane", "calls, from - to", "msats, from - to"], plan_rows(plan)),
        "Calls that were paid for before are read again for nothing.",
        "## What was cut" if cuts else "Nothing was cut.",
        "\n".join(cuts),
    )


def plan_rows(plan: Plan) -> list[list[str]]:
    """A row per stage and lane, and their sum."""
    rows = [
        [s.stage, s.lane, _range(s.calls_low, s.calls_high), _range(s.msats_low, s.msats_high)] for s in plan.stages
    ]
    return [*rows, ["**all**", "", _range(*plan.calls), _range(*plan.msats)]]


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


def search_report(result: SearchResult, pools: Pools, title: str = "Search") -> str:
    """The pictures, leaderboard, best instructions, and what the leader changed in the prompt."""
    if not result.trials:
        return page(f"# {title}", "The budget ran out before one trial was scored.")
    pools = result.study.pools if result.study else pools
    last = {trial.candidate_id: trial for trial in result.trials}
    images = [
        f"{pictures.markdown_image(png, TITLES[name])}\n\n*{TITLES[name]}*"
        for name, png in search_files(result, pools).items()
    ]
    return page(
        f"# {title}",
        f"{len(result.trials)} trials of {_space(pools)} combinations; {len(last)} distinct ones were tried."
        + (" **The budget ran out; this is the best so far.**" if result.ended == "budget" else ""),
        *images,
        "## Leaderboard",
        _leaderboard(list(last.values())),
        _best_instructions(result.study) if result.study else "",
        _leader_changes(result, pools),
    )


def search_files(result: SearchResult, pools: Pools) -> dict[str, bytes]:  # noqa: ARG001 - what all reports of it take
    """The pictures of a search that have something to show, as PNG files by name."""
    files = {}
    if result.trials:
        files["score.png"] = pictures.score_over_runs(result.trials)
    if result.study and result.study.effects:
        files["effects.png"] = pictures.effects(result.study)
    if any(one.cost.calls for one in result.measured):
        files["front.png"] = pictures.front(result.measured)
    return files


def validate_report(validation: Validation) -> str:
    """The finalists on validation examples, the winner against the uncompiled program and what is promoted now."""
    rows = [[str(i), _interval(score)] for i, (_, score) in enumerate(validation.finalists)]
    parts = ["# Validation", table(["finalist", "score on validation examples"], rows) if rows else ""]
    comparison = validation.comparison
    if comparison is None:
        return page(*parts, "**The budget ran out before the test examples were scored: no score may be claimed.**")
    parts += _verification(validation.verification) if validation.verification else []
    failures = [o.failure for o in comparison.winner.outcomes if o.failure]
    parts += ["## Test examples, which no choice has seen", *_compared(comparison, "uncompiled")]
    if validation.incumbent is not None:
        parts += ["## Against the program that is promoted now", *_compared(validation.incumbent, "promoted now")]
    return page(
        *parts,
        f"{len(failures)} test examples failed, for example: {_brief(failures[0])}" if failures else "",
    )


def transfer_report(found: Transfer) -> str:
    """Whether the cheap lane may be searched in, or what it found be believed."""
    rows = [["correlation of the two lanes' scores", _interval(found.correlation)]]
    if found.order is not None:
        rows.append(["order of texts, the same less the other", _interval(found.order)])
    return page(
        "# Where the search runs",
        f"{found.reason}.",
        f"{found.texts} texts on {found.examples} search examples, of lane `swarm` and of lane `{found.against}`.",
        table(["", "95 % interval"], rows),
    )


def promotion_report(promotion: Promotion) -> str:
    """What runs under the name from now on, and why."""
    rows = [
        ["decided by run", promotion.run_id],
        ["the winner", f"`{promotion.compiled_id}`"],
        ["ran before", f"`{promotion.incumbent_id}`" if promotion.incumbent_id else "nothing"],
        ["runs now", f"`{promotion.manifest_uri}`" if promotion.manifest_uri else "nothing"],
    ]
    return page(f"# {promotion.name}: {promotion.decision}", f"{promotion.reason}", table(["", ""], rows))


def final_report(
    name: str, manifest: CompiledModuleManifest, account: Account, bill: Bill, changed: tuple[Candidate, Candidate]
) -> str:
    """Before and after, cost by stage and lane, manifest; `changed` is the program's own text and the winner's."""
    card = manifest.scorecard
    rows = [
        ["uncompiled program", _interval(card.baseline_score)],
        ["compiled program", _interval(card.truth_score)],
        ["difference, paired", _interval(card.improvement)],
        ["winner on the search examples (flattering)", _interval(card.proxy_score)],
    ]
    files = [[name, f"`{uri}`"] for name, uri in manifest.artifacts.items()]
    said = [f"Test examples: {card.verification}."] if card.verification else []
    said += [f"{name.capitalize()}: {manifest.details[name]}." for name in SAID if name in manifest.details]
    return page(
        f"# {name}: {manifest.verdict}",
        f"Program `{manifest.program}`, compiled id `{manifest.compiled_id}`.",
        table(["", "score, 95 % interval"], rows),
        *said,
        "## Cost",
        account_table(account),
        bill_parts(bill),
        "## What changed in the prompt",
        prompt_changes(*changed),
        "## Files",
        table(["file", "hash"], files),
    )


def account_table(account: Account) -> str:
    """Cost by stage and lane, with the sum."""
    rows = [[line.stage, line.lane, *_tally(line.tally)] for line in account.lines]
    rows.append(["**all**", "", *_tally(account.total)])
    return table(["stage", "lane", "bought", "already paid for", "lost", "tokens in", "tokens out", "msats"], rows)


def bill_parts(bill: Bill) -> str:
    """The bill by stage and lane in msats and dollars, beside the reference lane alone, and what it means."""
    said = "\n".join(f"- {sentence}" for sentence in billing.sentences(bill))
    return f"{table(billing.headings(bill), billing.rows(bill))}\n\n{said}"


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
    if len(text) <= MAX_PAGE_CHARS:
        return text
    text = text[: MAX_PAGE_CHARS - len(CUT) - len(FENCE)]
    return text + (FENCE if text.count("```") % 2 else "") + CUT


def _leaderboard(trials: Sequence[Trial]) -> str:
    """The best candidates by the lower ends of their intervals: a few lucky examples are not enough."""
    best = sorted(trials, key=lambda trial: (-trial.score.low_ppm, trial.number))[:LEADERS]
    rows = [[str(t.number), _interval(t.score), _choice(t.choice)] for t in best]
    return table(["trial", "score on search examples", "instruction / demonstration set"], rows)


def _best_instructions(study: Study) -> str:
    """By predictor the instructions that add most, as the search believed at its end."""
    alone = [effect for effect in study.effects if effect.instruction is not None and effect.demos is None]
    rows = []
    for name in list(dict.fromkeys(effect.predictor for effect in alone))[:MOST_PREDICTORS]:
        mine = sorted((effect for effect in alone if effect.predictor == name), key=lambda effect: -effect.mean)
        texts = study.pools.instructions.get(name, ())
        rows += [_instruction_row(effect, texts) for effect in mine[:BEST_INSTRUCTIONS]]
    if not rows:
        return ""
    head = ["predictor", "number", "effect in logits, 95 % interval", "runs", "instruction"]
    return "## Best instructions\n\n" + table(head, rows)


def _instruction_row(effect: Effect, texts: Sequence[str]) -> list[str]:
    number = effect.instruction or 0
    mean, reach = effect.mean / 1_000, Z_95 * effect.sd / 1_000
    text = _brief(texts[number]) if number < len(texts) else ""
    shown = f"{mean:+.2f} [{mean - reach:+.2f}, {mean + reach:+.2f}]"
    return [effect.predictor, f"i{number}", shown, f"{effect.runs:,}", text]


def _leader_changes(result: SearchResult, pools: Pools) -> str:
    if not result.finalists:
        return ""
    leader, score = result.finalists[0]
    return f"## What the leader changed ({score})\n\n{prompt_changes(pools.baseline, leader)}"


def _compared(comparison: Comparison, other: str) -> list[str]:
    """A comparison as a table and a verdict."""
    rows = [
        [other, _interval(comparison.baseline.score), str(comparison.baseline.score.count)],
        ["compiled", _interval(comparison.winner.score), str(comparison.winner.score.count)],
        ["difference, paired", _interval(comparison.improvement), str(comparison.improvement.count)],
    ]
    return [table(["", "score", "examples"], rows), f"Verdict: **{comparison.verdict}**."]


def _verification(found: Verification) -> list[str]:
    """By what the answers on the test examples stand, and who said otherwise."""
    counts = found.counts
    rows = [
        ["decided by agreement", f"{counts.decided:,}"],
        ["verified by the premium lane", f"{counts.verified:,}"],
        ["unverified: the largest camp stands", f"{counts.unverified:,}"],
    ]
    parts = [f"## How far this is verified ({found.asked})", table(["test examples", ""], rows)]
    against = [[one.voice, f"{one.dissents:,}", f"{one.runs:,}"] for one in found.dissenters[:MOST_VOICES]]
    if against:
        parts += [
            "Who said otherwise than was agreed on:",
            table(["who", "runs otherwise", "runs in decided groups"], against),
        ]
    return parts


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} - {high:,}"


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
