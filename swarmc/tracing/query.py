"""Ask many bundles at once in SQL. The SQL sees tables of these bundles, and no file, network or setting."""

import json
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from pydantic import JsonValue

from swarmc.contracts.bundle import Call, preview
from swarmc.contracts.candidates import Score
from swarmc.contracts.canonical import PPM, canonical_bytes
from swarmc.contracts.errors import BundleError, SpecError, boundary
from swarmc.tracing.bundle import MAX_LINE_BYTES, read_bundle
from swarmc.tracing.diff import scores_in, texts_in
from swarmc.tracing.evidence import Evidence, evidence_of

TIME_LIMIT_S = 60.0
MEMORY = "2GB"

TABLES: Mapping[str, str] = {
    "runs": "run_id VARCHAR, name VARCHAR, program VARCHAR, optimizer VARCHAR, metric VARCHAR, seed BIGINT,"
    " compiled_id VARCHAR, verdict VARCHAR, decision VARCHAR, baseline_score DOUBLE, truth_score DOUBLE,"
    " improvement DOUBLE, improvement_low DOUBLE, improvement_high DOUBLE, cost_msats BIGINT, calls BIGINT,"
    " reused BIGINT, created_at BIGINT",
    "examples": "run_id VARCHAR, example_id VARCHAR, split VARCHAR, place BIGINT, value JSON",
    "candidates": "run_id VARCHAR, candidate_id VARCHAR, role VARCHAR, instruction VARCHAR, demos BIGINT, text JSON,"
    " search_score DOUBLE, search_count BIGINT, validation_score DOUBLE, test_score DOUBLE",
    "outcomes": "run_id VARCHAR, role VARCHAR, candidate_id VARCHAR, example_id VARCHAR, score DOUBLE,"
    " failure VARCHAR, calls BIGINT, prompt_tokens BIGINT, completion_tokens BIGINT, msats BIGINT, latency_ms BIGINT",
    "calls": "run_id VARCHAR, request_id VARCHAR, stage VARCHAR, lane VARCHAR, source VARCHAR, model VARCHAR,"
    " venue VARCHAR, prompt_tokens BIGINT, completion_tokens BIGINT, msats BIGINT, latency_ms BIGINT,"
    " prompt VARCHAR, answer VARCHAR",
    "receipts": "run_id VARCHAR, bought_by VARCHAR, request_id VARCHAR, completion_id VARCHAR, stage VARCHAR,"
    " lane VARCHAR, venue VARCHAR, model VARCHAR, prompt_tokens BIGINT, completion_tokens BIGINT, msats BIGINT,"
    " estimated BOOLEAN, simulated BOOLEAN, settled_at_ms BIGINT",
}
"""By table, the columns. `prompt` is the last message of a request; long texts are cut as `preview` does."""

QUESTIONS: Mapping[str, str] = {
    "which-instruction-won": """
        SELECT instruction, count(*) AS wins, round(avg(test_score), 3) AS test_score,
               round(avg(runs.improvement), 3) AS improvement, count(DISTINCT runs.name) AS programs
        FROM candidates JOIN runs USING (run_id) WHERE role = 'winner'
        GROUP BY instruction ORDER BY wins DESC, test_score DESC, instruction""",
    "cost-per-point": """
        SELECT substr(run_id, 1, 8) AS run, name, verdict, calls + reused AS completions, cost_msats,
               round(100 * improvement, 1) AS points,
               round(cost_msats / nullif(100 * improvement, 0), 1) AS msats_per_point,
               round((calls + reused) / nullif(100 * improvement, 0), 1) AS completions_per_point
        FROM runs ORDER BY msats_per_point NULLS LAST, completions_per_point, run""",
}
"""Ready-made questions by name."""

Row = dict[str, JsonValue | float]


@dataclass(frozen=True)
class Answer:
    """A table."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


def ask(sql: str, paths: Sequence[Path]) -> Answer:
    """One SELECT over the tables of `paths`.

    Args:
        sql: The question; see `TABLES` for what there is.
        paths: Bundles; each is read and its chain checked.

    Raises:
        BundleError: a bundle that does not hold, or the same run twice.
        SpecError: no single SELECT, or one that fails.
    """
    with duckdb.connect() as connection, tempfile.TemporaryDirectory(prefix="swarmc-query-") as directory:
        with boundary(BundleError, "reading the bundles into tables", duckdb.Error):
            _fill(connection, paths, Path(directory))
            # From here on the SQL is the asker's.
            connection.execute(f"SET memory_limit = '{MEMORY}'; SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
        return _answer(connection, sql)


def _answer(connection: duckdb.DuckDBPyConnection, sql: str) -> Answer:
    with boundary(SpecError, "the question cannot be answered", duckdb.Error):
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise SpecError(f"ask one SELECT, over the tables {', '.join(TABLES)}")
        limit = threading.Timer(TIME_LIMIT_S, connection.interrupt)
        limit.start()
        try:
            found = connection.execute(statements[0])
            columns = tuple(column[0] for column in found.description or ())
            return Answer(columns, tuple(map(tuple, found.fetchall())))
        finally:
            limit.cancel()


def _fill(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path], directory: Path) -> None:
    files = {name: (directory / f"{name}.ndjson").open("w", encoding="utf-8") for name in TABLES}
    seen: set[str] = set()
    try:
        for path in paths:
            evidence = evidence_of(read_bundle(path))
            run_id = evidence.bundle.header.run_id
            if run_id in seen:
                raise BundleError(f"{path.name} is another bundle of run {run_id}; give each run once")
            seen.add(run_id)
            for name, rows in _tables(evidence).items():
                files[name].writelines(json.dumps({"run_id": run_id, **row}) + "\n" for row in rows)
    finally:
        for file in files.values():
            file.close()
    for name, columns in TABLES.items():
        shape = ", ".join("{}: '{}'".format(*column.split()) for column in columns.split(","))
        connection.execute(
            f"CREATE TABLE {name} AS SELECT * FROM read_json(?, format = 'newline_delimited', columns = {{{shape}}},"  # noqa: S608 - our own names
            f" maximum_object_size = {MAX_LINE_BYTES})",
            [str(directory / f"{name}.ndjson")],
        )


def _tables(evidence: Evidence) -> Mapping[str, Iterable[Row]]:
    return {
        "runs": _runs(evidence),
        "examples": _examples(evidence),
        "candidates": _candidates(evidence),
        "outcomes": _outcomes(evidence),
        "calls": map(_call, evidence.bundle.calls),
        "receipts": map(_receipt, evidence.bundle.calls),
    }


def _runs(evidence: Evidence) -> Iterator[Row]:
    manifest, spec, promotion = evidence.manifest, evidence.spec, evidence.bundle.promotion
    if manifest is None:
        return
    card, total = manifest.scorecard, evidence.account.total if evidence.account else None
    yield {
        "name": spec.name if spec else "",
        "program": manifest.program,
        "optimizer": manifest.optimizer,
        "metric": str(manifest.details.get("metric", "")),
        "seed": spec.seed if spec else None,
        "compiled_id": manifest.compiled_id,
        "verdict": manifest.verdict,
        "decision": promotion.decision if promotion else None,
        "baseline_score": _mean(card.baseline_score),
        "truth_score": _mean(card.truth_score),
        "improvement": _mean(card.improvement),
        "improvement_low": card.improvement.low_ppm / PPM if card.improvement else None,
        "improvement_high": card.improvement.high_ppm / PPM if card.improvement else None,
        "cost_msats": card.optimization_cost_msats,
        "calls": total.calls if total else None,
        "reused": total.reused if total else None,
        "created_at": manifest.created_at,
    }


def _examples(evidence: Evidence) -> Iterator[Row]:
    for sample in evidence.bundle.samples:
        value = None if sample.value is None else canonical_bytes(sample.value).decode()
        yield {"example_id": sample.example_id, "split": sample.split, "place": sample.place, "value": value}


def _candidates(evidence: Evidence) -> Iterator[Row]:
    roles = {one.candidate_id: name for name, one in reversed(evidence.evaluations().items())}
    if evidence.validation is not None:
        roles[evidence.validation.winner.content_id] = "winner"
    for key, text in texts_in(evidence).items():
        scores = scores_in(evidence, key)
        yield {
            "candidate_id": key,
            "role": roles.get(key, "candidate"),
            "instruction": preview("\n\n".join(one.instruction for one in text.predictors.values())),
            "demos": sum(len(one.demos) for one in text.predictors.values()),
            "text": text.canonical().decode(),
            "search_score": _mean(scores.get("search")),
            "search_count": scores["search"].count if "search" in scores else None,
            "validation_score": _mean(scores.get("validation")),
            "test_score": _mean(scores.get("test")),
        }


def _outcomes(evidence: Evidence) -> Iterator[Row]:
    for role, one in evidence.evaluations().items():
        for outcome in one.outcomes:
            yield {
                "role": role,
                "candidate_id": one.candidate_id,
                "example_id": outcome.example_id,
                "score": outcome.score_ppm / PPM,
                "failure": outcome.failure,
                **outcome.cost.model_dump(),
            }


def _call(call: Call) -> Row:
    request, completion = call.request or {}, call.completion or {}
    messages = request.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    prompt = last.get("content") if isinstance(last, dict) else None
    return {
        "request_id": call.receipt.request_id,
        "source": call.source,
        **_booked(call),
        "latency_ms": completion.get("latency_ms"),
        "prompt": preview(str(prompt)) if prompt is not None else None,
        "answer": preview(str(completion["text"])) if "text" in completion else None,
    }


def _receipt(call: Call) -> Row:
    receipt = call.receipt
    return {
        "bought_by": receipt.run_id,
        "request_id": receipt.request_id,
        "completion_id": receipt.completion_id,
        **_booked(call),
        "estimated": receipt.usage.estimated,
        "simulated": receipt.usage.simulated,
        "settled_at_ms": receipt.settled_at_ms,
    }


def _booked(call: Call) -> Row:
    receipt = call.receipt
    return {
        "stage": receipt.stage,
        "lane": receipt.lane,
        "venue": receipt.venue,
        "model": receipt.model,
        "prompt_tokens": receipt.usage.prompt_tokens,
        "completion_tokens": receipt.usage.completion_tokens,
        "msats": receipt.usage.cost_msats,
    }


def _mean(score: Score | None) -> float | None:
    return None if score is None else score.mean
