"""Secrets that are planted in keys, blocks, environments and prompts are in nothing that a run leaves behind."""

import asyncio
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect, a second server")]

KEY = "sk-planted0123456789abcdefghijKEY"
DATABASE_PASSWORD = "planted-password-of-the-database"
HEADER = "planted-header-of-the-collector-0123"


def save_blocks(name: str, port: int, spans: Path) -> None:
    from blocks.sinks.telemetry import Telemetry
    from blocks.venues import VENUES

    async def save() -> None:
        venue = VENUES["openai"](base_url=f"http://127.0.0.1:{port}/v1", model="counting", api_key=KEY)
        await venue.save(name, overwrite=True)
        headers = f"authorization=Bearer {HEADER}"
        await Telemetry(endpoint=f"http://127.0.0.1:{port}/v1/traces", headers=headers, file=spans).save(
            name, overwrite=True
        )

    asyncio.run(save())


def holders(directory: Path, secret: str) -> list[str]:
    """Files below a directory that hold a secret."""
    found = [path for path in directory.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    return sorted({str(path.relative_to(directory)) for path in found})


def test_no_planted_secret_is_in_what_a_run_leaves(
    on_server, swarmc_here, counting_server, write_spec, tmp_path, monkeypatch
):
    from blocks.sinks.telemetry import Telemetry
    from blocks.venues import VENUES

    name, spans, home = "planted", tmp_path / "out" / "spans.jsonl", tmp_path / "home"
    save_blocks(name, port := counting_server(), spans)
    monkeypatch.setenv("PLANTED_PASSWORD", DATABASE_PASSWORD)
    slugs = [kind.get_block_type_slug() for kind in (VENUES["openai"], Telemetry)]
    path = write_spec(port, {"venue": f"{slugs[0]}/{name}", "model": None}, sinks=[f"{slugs[1]}/{name}"])
    done = swarmc_here("compile", str(path), "--ledger", f"sqlite:///{home}/ledger.db")
    assert done.exit_code == 0, done.output
    run = next(line.split()[1] for line in done.output.splitlines() if line.startswith("run "))
    bundled = swarmc_here(
        "bundle", run, "--out", str(tmp_path / "out" / "bundle.jsonl"), "--ledger", f"sqlite:///{home}/ledger.db"
    )
    assert bundled.exit_code == 0, bundled.output
    assert spans.stat().st_size > 10_000
    for secret in (KEY, DATABASE_PASSWORD, HEADER):
        assert secret not in done.output + bundled.output
        assert holders(home, secret) == []
        assert holders(tmp_path / "out", secret) == []
