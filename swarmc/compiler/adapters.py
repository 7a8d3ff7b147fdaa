"""DSPy's adapters, which here write the constant beginning of a prompt once, and tell of every predictor call.

A compile asks the same instruction and demonstrations of many examples; DSPy renders them anew for
each, which is a third of a call's CPU time. Messages and their order are DSPy's own.
"""

from collections.abc import Callable
from typing import Any

import dspy

from swarmc.compiler.scope import current_scope
from swarmc.compiler.telling import PredictorCall

PREFIXES_KEPT = 256


class _OnePrefix:
    """Remembers system messages and demonstrations by the very objects they are made of."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # The objects are kept with what was made of them, so that their ids stay theirs.
        self._kept: dict[tuple[int, ...], tuple[tuple[Any, ...], Any]] = {}

    def format_system_message(self, signature: Any) -> str:
        return self._once((signature,), lambda: super(_OnePrefix, self).format_system_message(signature))  # type: ignore[misc]

    def format_demos(self, signature: Any, demos: list[Any]) -> list[Any]:
        if not demos:
            return []
        made = self._once(
            (signature, *demos),
            lambda: super(_OnePrefix, self).format_demos(signature, demos),  # type: ignore[misc]
        )
        return [dict(message) for message in made]

    def _once(self, objects: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        key = tuple(map(id, objects))
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = (objects, make())
            while len(self._kept) > PREFIXES_KEPT:
                self._kept.pop(next(iter(self._kept)), None)
        return found[1]


class _Told:
    """Tells of every call of a predictor, where somebody listens."""

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[Any]:
        teller = current_scope().teller
        if teller is None:
            return super().__call__(lm, lm_kwargs, signature, demos, inputs)  # type: ignore[misc]
        with PredictorCall(teller, signature, inputs) as call:
            outputs = super().__call__(lm, lm_kwargs, signature, demos, inputs)  # type: ignore[misc]
            call.outputs = outputs
            return outputs

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[Any]:
        teller = current_scope().teller
        if teller is None:
            return await super().acall(lm, lm_kwargs, signature, demos, inputs)  # type: ignore[misc]
        with PredictorCall(teller, signature, inputs) as call:
            outputs = await super().acall(lm, lm_kwargs, signature, demos, inputs)  # type: ignore[misc]
            call.outputs = outputs
            return outputs


class ChatAdapter(_Told, _OnePrefix, dspy.ChatAdapter):
    """`dspy.ChatAdapter`."""


class JSONAdapter(_Told, _OnePrefix, dspy.JSONAdapter):
    """`dspy.JSONAdapter`."""


class XMLAdapter(_Told, _OnePrefix, dspy.XMLAdapter):
    """`dspy.XMLAdapter`."""


def make_adapter(kind: str, *, json_fallback: bool) -> dspy.Adapter:
    """The adapter of that kind: `chat`, `json` or `xml`.

    Args:
        kind: How prompts are written and answers read.
        json_fallback: Whether an answer that cannot be read is asked for once more as JSON.
    """
    if kind == "json":
        return JSONAdapter()
    made = {"chat": ChatAdapter, "xml": XMLAdapter}[kind]
    return made(use_json_adapter_fallback=json_fallback)
