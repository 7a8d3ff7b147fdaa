"""How much to try, by name."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """How much to try, for a program with one predictor; every further one adds half as many runs."""

    runs: int
    instructions: int
    demo_sets: int
    finalists: int
    reflections: int


PRESETS = {
    "light": Preset(runs=360, instructions=12, demo_sets=12, finalists=3, reflections=0),
    "medium": Preset(runs=900, instructions=16, demo_sets=16, finalists=4, reflections=8),
    "heavy": Preset(runs=2_700, instructions=24, demo_sets=24, finalists=5, reflections=16),
}


def preset_of(runs: int) -> Preset:
    """Pools that so many runs can tell apart: a preset's, or smaller ones below the smallest preset."""
    fitting = [preset for preset in PRESETS.values() if preset.runs <= runs]
    if fitting:
        return fitting[-1]
    light, few = PRESETS["light"], max(3, runs // 12)
    return Preset(
        runs=runs,
        instructions=min(light.instructions, few),
        demo_sets=min(light.demo_sets, few),
        finalists=min(light.finalists, max(1, runs // 60)),
        reflections=min(light.reflections, runs // 80),
    )
