"""MIPROv2 (Opsahl-Ong et al. 2024): instructions x demonstration sets, searched by a surrogate or by TPE.

Differs from DSPy's where measurement said so: bootstrap and proposals are awaited together; all
combinations share one order of examples, so that they are compared on the same ones; a combination
that is asked again gets further examples instead of the same; there are no full evaluations. With
the surrogate combinations race example by example, instructions are also written from failures on
the way, and the last part of the runs goes to the best few; with TPE whole minibatches overlap, and
the best few are scored on all search examples. What an earlier search of the program found is in the
pools again, and with the surrogate is where the search starts.
"""

import asyncio
from collections.abc import Mapping, Sequence

from swarmc.compiler.demands import bootstrap_runs, proposals
from swarmc.compiler.demonstrations import DemoSets, bootstrap_pool, build_demo_sets
from swarmc.compiler.minibatches import Minibatches
from swarmc.compiler.proposing import propose_for_all
from swarmc.compiler.steering import SteeredRace
from swarmc.compiler.studies import fresh_demo_sets, with_earlier_demo_sets, with_earlier_instructions
from swarmc.contracts.candidates import Demo, Pools, SearchResult
from swarmc.contracts.plan import Demand
from swarmc.contracts.ports import Workbench
from swarmc.contracts.spec import PlannedSearch


class MIPROv2:
    """Implements the `Optimizer` port."""

    name = "MIPROv2"

    async def bootstrap(self, bench: Workbench) -> DemoSets:
        fresh = fresh_demo_sets(bench)
        pool, _ = await asyncio.gather(bootstrap_pool(bench, fresh), bench.prepare())
        return with_earlier_demo_sets(bench, build_demo_sets(bench, pool, fresh))

    async def propose(
        self, bench: Workbench, demo_sets: Mapping[str, Sequence[Sequence[Demo]]]
    ) -> dict[str, tuple[str, ...]]:
        return with_earlier_instructions(bench, await propose_for_all(bench, demo_sets))

    async def search(self, bench: Workbench, pools: Pools) -> SearchResult:
        if bench.spec.sampler == "tpe":
            return await Minibatches(bench, pools).run()
        return await SteeredRace(bench, pools).run()

    def demand(self, spec: PlannedSearch, predictors: int, train: int) -> Demand:
        return Demand(
            bootstrap_runs=bootstrap_runs(spec, train),
            proposals=proposals(spec, predictors),
            writings=spec.reflections * predictors if spec.sampler == "surrogate" else 0,
        )
