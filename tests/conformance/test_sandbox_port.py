"""The law of every sandbox: commands run in their order on the job's own files, and end as they end."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import ValidationError

from blocks.sandboxes import SANDBOXES, find_sandbox
from swarmc.contracts.errors import SandboxError
from swarmc.contracts.ports import Sandbox
from swarmc.contracts.sandbox import CommandJob, CommandResult
from tests.fakes import PretendedSandbox
from tests.sandboxes import why_not

NOT_HERE = why_not()
"""Asked here, where no loop runs yet, so that this file can also be run alone."""


@pytest.fixture(params=["pretended", *SANDBOXES])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    if request.param == "pretended":
        yield PretendedSandbox()
        return
    if NOT_HERE:
        pytest.skip(NOT_HERE)
    async with SANDBOXES[request.param]().open() as opened:
        yield opened


async def run(sandbox: Sandbox, *commands: str, timeout_s: int = 20, **files: str) -> list[CommandResult]:
    job = CommandJob(files=files, commands=tuple(tuple(one.split()) for one in commands), timeout_s=timeout_s)
    return list(await sandbox.run(job))


async def test_commands_run_in_their_order_until_one_fails(sandbox: Sandbox) -> None:
    results = await run(sandbox, "true", "echo 1", "false", "echo 2")
    assert [(one.exit_code, one.output, one.over) for one in results] == [
        (0, "", None),
        (0, "1\n", None),
        (1, "", None),
    ]


async def test_files_hold_what_was_given_and_stay_for_the_jobs_other_commands_alone(sandbox: Sandbox) -> None:
    results = await run(sandbox, "cp a b", "cat a b", a="smörgås\n")
    assert results[-1] == CommandResult(exit_code=0, output="smörgås\nsmörgås\n")
    assert (await run(sandbox, "cat b"))[0].exit_code == 1


async def test_the_time_is_that_of_all_commands_together(sandbox: Sandbox) -> None:
    results = await run(sandbox, "echo 1", "sleep 9", "echo 2", timeout_s=1)
    assert [(one.exit_code, one.over) for one in results] == [(0, None), (137, "time")]


async def test_a_command_that_is_not_there_is_an_error_and_no_result(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError, match="'no-such-program' is not in the sandbox"):
        await run(sandbox, "true", "no-such-program")


async def test_jobs_at_once_do_not_meet(sandbox: Sandbox) -> None:
    results = await asyncio.gather(*(run(sandbox, "cp a b", "cat b", a=f"{n}") for n in range(6)))
    assert [one[-1].output for one in results] == [str(n) for n in range(6)]


async def test_it_says_what_it_is_and_which_limits_it_does_not_enforce(sandbox: Sandbox) -> None:
    assert sandbox.sentence
    assert set(sandbox.unenforced) <= {"memory", "processes", "cpus"}


@pytest.mark.parametrize(
    "job",
    [
        {"files": {"../x": ""}, "commands": [["true"]], "timeout_s": 1},
        {"files": {"/x": ""}, "commands": [["true"]], "timeout_s": 1},
        {"files": {}, "commands": [["a\0b"]], "timeout_s": 1},
        {"files": {}, "commands": [["echo", "x" * 200_000]], "timeout_s": 1},
        {"files": {}, "commands": [[""]], "timeout_s": 1},
        {"files": {}, "commands": [[]], "timeout_s": 1},
    ],
    ids=lambda job: str(job)[:60].encode("unicode_escape").decode(),
)
def test_what_no_system_could_be_told_is_refused_before_it_is_asked(job: dict) -> None:
    with pytest.raises(ValidationError):
        CommandJob.model_validate(job)


async def test_a_sandbox_is_found_by_its_word_and_a_wrong_one_is_named() -> None:
    assert {type(await find_sandbox(word)) for word in (None, "auto", *SANDBOXES)} <= set(SANDBOXES.values())
    with pytest.raises(SandboxError, match="'docker' names no sandbox; give auto, bubblewrap"):
        await find_sandbox("docker")


def test_every_sandbox_s_block_has_a_name_of_its_own() -> None:
    assert len({kind.get_block_type_slug() for kind in SANDBOXES.values()}) == len(SANDBOXES)
