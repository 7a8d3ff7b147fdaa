"""The saved form that every sandbox's block shares."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

from prefect.blocks.core import Block
from pydantic import Field

from swarmc.contracts.ports import Sandbox
from swarmc.contracts.sandbox import SandboxLimits


class SandboxBlock(Block, ABC):
    """Configuration of a place where commands run on strangers' texts. Opening it gives the port."""

    limits: SandboxLimits = Field(default=SandboxLimits(), description="What the commands of one job may take")
    at_once: int | None = Field(
        default=None, ge=1, le=4_096, description="Most jobs at once; empty: one for each processor"
    )
    allow_unenforced: bool = Field(
        default=False,
        description="Run even where this machine cannot enforce every limit. Never for texts of people you do not know",
    )

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Sandbox]:
        """The sandbox, tried out; to be entered with `async with`.

        Raises:
            SandboxError: on entering, when commands cannot be run safely here: what is missing and what to do.
        """
