"""Optimizers, one file and one line each."""

from collections.abc import Callable

from swarmc.compiler.optimizers.mipro import MIPROv2
from swarmc.contracts.ports import Optimizer

OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "MIPROv2": MIPROv2,
}
