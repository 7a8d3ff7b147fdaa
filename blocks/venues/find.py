"""The venue that a person named in a lane: a word, an address, a file, a model's name or a saved block."""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from blocks.venues.auto import Auto, ask, block_of_model, names_in
from blocks.venues.block import VenueBlock
from blocks.venues.llamacpp import LlamaCpp
from blocks.venues.ollama import Ollama
from blocks.venues.openai_compatible import OpenAICompatible
from blocks.venues.pylon import Pylon, is_pylon, settings_of
from swarmc.contracts.errors import VenueError, boundary
from swarmc.contracts.spec import LaneSpec

LISTING_LIMIT_S = 5.0
SWARM_SLUG = "swarmc-swarm"


async def find_venue(spec: LaneSpec, environ: Mapping[str, str] | None = None) -> tuple[VenueBlock, str]:
    """Its configuration, not yet opened, and a sentence for people that says what it is and why.

    Args:
        spec: `venue` is `auto`, `practice`, `pylon:...` (see `pylon.py`), `http(s)://...`, a `.gguf` file,
            `slug/name` of a saved block, `ollama/NAME`, or a litellm model; `model` chooses among a server's models.
        environ: The environment; this process's own when not given.

    Raises:
        VenueError: it names no venue, or none of the address's models.
    """
    environ = os.environ if environ is None else environ
    reference = spec.venue.strip()
    slug, _, name = reference.partition("/")
    saved = next((kind for kind in _kinds(slug) if kind.get_block_type_slug() == slug), None)
    try:
        if reference == "auto":
            choice = await Auto(timeout_s=spec.timeout_s).choose(environ)
            return choice.block, choice.sentence
        if reference == "practice":
            return LlamaCpp(timeout_s=spec.timeout_s), "the practice model in an embedded llama.cpp"
        if is_pylon(reference):
            return _pylon(reference, spec)
        if saved is not None:
            return await _saved(saved, name, spec), f"the saved block {reference}"
        if reference.startswith(("http://", "https://")):
            return await _at_address(reference, spec)
        return _of_model(reference, spec, environ)
    except ValidationError as error:
        reason = "; ".join(f"{detail['loc'][-1]}: {detail['msg']}" for detail in error.errors())
        raise VenueError(f"{reference!r} names no venue: {reason}") from error


def _kinds(slug: str) -> list[type[VenueBlock]]:
    if slug == SWARM_SLUG:
        # Here, because a machine that only computes locally needs nothing of the market.
        import blocks.venues.swarm  # noqa: F401
    return VenueBlock.__subclasses__()


async def _saved(kind: type[VenueBlock], name: str, spec: LaneSpec) -> VenueBlock:
    """The saved block, with what the lane says in place of what was saved."""
    with boundary(VenueError, f"loading the saved venue {spec.venue!r}; see `prefect block ls`"):
        block = await kind.aload(name)
    said: dict[str, Any] = {"timeout_s": spec.timeout_s} if "timeout_s" in spec.model_fields_set else {}
    if spec.model is not None:
        said["model"] = spec.model
    return block.model_copy(update=said) if said else block


def _pylon(reference: str, spec: LaneSpec) -> tuple[VenueBlock, str]:
    said = settings_of(reference)
    if spec.model is not None:
        if "model" in said:
            raise VenueError(f"the lane names two models, in {reference!r} and {spec.model!r}; leave `model` out")
        said["model"] = spec.model
    block = Pylon(timeout_s=spec.timeout_s, **said)
    here = "what the machine has" if block.backend == "auto" else block.backend
    where = {"local": f"{here}, free", "swarm": "bought on the market", "hybrid": f"{here}, or bought where that fails"}
    return block, f"Pylon: {block.model or 'a model'} from {where[block.venue]}"


async def _at_address(base_url: str, spec: LaneSpec) -> tuple[VenueBlock, str]:
    """A server that speaks OpenAI's chat API; its only model, when none is named."""
    model = spec.model
    if model is None:
        models = names_in(await ask(base_url, "/models", limit_s=LISTING_LIMIT_S), "data", "id")
        if len(models) != 1:
            known = f"it has {', '.join(models)}" if models else "it lists none"
            raise VenueError(f"set the lane's `model`: which one of {base_url} is meant? ({known})")
        (model,) = models
    block = OpenAICompatible(base_url=base_url, model=model, timeout_s=spec.timeout_s)
    return block, f"{model} at {base_url}"


def _of_model(reference: str, spec: LaneSpec, environ: Mapping[str, str]) -> tuple[VenueBlock, str]:
    named = reference.endswith(".gguf") or "/" in reference
    if not named and spec.model is None:
        raise VenueError(
            f"{reference!r} names no venue; give auto, practice, a litellm model such as openai/gpt-4o-mini, "
            "ollama/NAME, pylon:local, an address such as http://127.0.0.1:8080/v1, a .gguf file, or a saved block "
            "as slug/name"
        )
    if named and spec.model is not None and not reference.endswith(".gguf"):
        raise VenueError(f"the lane names two models, {reference!r} and {spec.model!r}; leave `model` out")
    block = block_of_model(reference if named else f"{reference}/{spec.model}", environ, spec.timeout_s)
    if isinstance(block, LlamaCpp):
        block = block.model_copy(update={"model": spec.model})
        return block, f"{reference} in an embedded llama.cpp"
    if isinstance(block, Ollama):
        return block, f"{block.model} of Ollama at {block.base_url}"
    return block, f"{reference if named else f'{reference}/{spec.model}'} through litellm"
