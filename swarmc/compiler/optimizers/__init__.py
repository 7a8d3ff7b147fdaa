"""Optimizers, one file and one line each."""

from collections.abc import Callable

from swarmc.compiler.optimizers.copro import COPRO
from swarmc.compiler.optimizers.gepa import GEPA
from swarmc.compiler.optimizers.mipro import MIPROv2
from swarmc.compiler.optimizers.pareto import Pareto
from swarmc.contracts.ports import Optimizer

OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "MIPROv2": MIPROv2,
    "COPRO": COPRO,
    "GEPA": GEPA,
    "Pareto": Pareto,
}
