"""The saved form that every wallet's block shares."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Self

from prefect.blocks.core import Block

from swarmc.contracts.wallet import Wallet


class WalletBlock(Block, ABC):
    """Configuration of a place where money is. Opening it gives the port."""

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Wallet]:
        """The wallet, to be entered with `async with`; what it holds (files, connections) ends with the context.

        Raises:
            WalletError: on entering, when no wallet can be had by this configuration.
        """

    @classmethod
    def named(cls, reference: str) -> Self | None:
        """The configuration that a person's words name: `ledger:buyer`, an address. `None` when they name none of ours.

        Raises:
            WalletError: they name one of ours, but cannot be right.
        """
        del reference
        return None
