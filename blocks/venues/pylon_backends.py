"""What a Pylon runs on where it runs on this machine: looked for in a fixed order, and nothing made up.

1. Ollama at ``OLLAMA_URL`` or ``OLLAMA_HOST`` (or its usual address).
2. Apple's foundation model behind its bridge at ``FM_BRIDGE_URL`` (or its usual address).
3. A llama.cpp server at ``LLAMACPP_URL`` or ``LLAMACPP_BASE_URL`` (or its usual address).
4. A .gguf file in an embedded llama.cpp, where one is named.

The practice model, a toy that knows the words of the example alone, is taken only where it is named.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from blocks.venues.apple_fm import MODEL as APPLE_MODEL
from blocks.venues.apple_fm import AppleFm, bridge_url, no_bridge
from blocks.venues.auto import LLAMACPP_URL, Choice, ask, names_in, ollama_url
from blocks.venues.llamacpp import LlamaCpp
from blocks.venues.ollama import Ollama
from blocks.venues.openai_compatible import OpenAICompatible
from swarmc.contracts.errors import VenueError

Backend = Literal["auto", "ollama", "apple-fm", "llamacpp", "practice"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
PREFERRED = ("llama3.2", "llama3.1", "llama3", "mistral", "qwen", "gpt-oss", "codellama", "gemma", "phi")
"""Parts of the names of Ollama's models, in the order in which one is chosen where none is named."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of this machine.

    Attributes:
        base_url: The server's address, where it is not its usual one.
        model: Its name at the server; of a file, the name to report.
        model_path: A .gguf file.
    """

    backend: Backend = "auto"
    base_url: str | None = None
    model: str | None = None
    model_path: Path | None = None
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Missed:
    """Why a backend was passed over. `away`: nothing answers there, which may pass."""

    sentence: str
    away: bool = False


async def find_backend(wish: Wish, environ: Mapping[str, str] | None = None) -> Choice:
    """Find what there is, in the order that this file's docstring gives.

    Args:
        wish: What is wanted.
        environ: The environment to look in; this process's own when not given.

    Raises:
        VenueError: there is none. It says what was looked for and what to start; `retryable` where all that is
            missing is a server that answers.
    """
    environ = os.environ if environ is None else environ
    if wish.backend == "practice":
        return Choice(LlamaCpp(model=wish.model, timeout_s=wish.timeout_s), "the practice model, because it is named")
    if wish.backend == "llamacpp" and wish.model_path is not None:
        return _embedded(wish, wish.model_path)
    missed: list[Missed] = []
    for backend, find in FINDERS.items():
        if wish.backend in ("auto", backend):
            found = await find(wish, environ)
            if isinstance(found, Choice):
                return found
            missed.append(found)
    if wish.model_path is not None:
        return _embedded(wish, wish.model_path)
    raise VenueError(
        f"no local model was found (backend {wish.backend}): {'; '.join(miss.sentence for miss in missed)}. "
        "Start one of them, name a .gguf file (`pylon:local:models/mine.gguf`), or, to try things out, "
        "the practice model (`pylon:local:practice`)",
        retryable=all(miss.away for miss in missed),
    )


def matching(wanted: str, listed: Sequence[str]) -> str | None:
    """The name under which Ollama has the model that is wanted: itself, or some tag of it where none is named."""
    if wanted in listed or f"{wanted}:latest" in listed:
        return wanted
    return next((name for name in listed if name.partition(":")[0] == wanted), None)


def preferred(listed: Sequence[str]) -> str | None:
    """The model to take where none is named: by `PREFERRED`, or the first; none that only embeds."""
    talking = [name for name in listed if "embed" not in name]
    by_part = (next((name for name in talking if part in name), None) for part in PREFERRED)
    return next((name for name in by_part if name), talking[0] if talking else None)


async def _ollama(wish: Wish, environ: Mapping[str, str]) -> Choice | Missed:
    host = wish.base_url or environ.get("OLLAMA_URL") or environ.get("OLLAMA_HOST", "")
    url = ollama_url({"OLLAMA_HOST": host})
    answer = await ask(url, "/api/tags")
    if not isinstance(answer.get("models"), list):
        return Missed(f"no Ollama answers at {url} (`ollama serve`, or set OLLAMA_HOST)", away=True)
    listed = names_in(answer, "models", "name")
    variable = next((name for name in ("PYLON_LOCAL_MODEL", "OLLAMA_MODEL") if environ.get(name)), None)
    wanted = environ[variable] if variable else wish.model
    model = matching(wanted, listed) if wanted else preferred(listed)
    if model is None:
        known = f"it has {', '.join(listed)}" if listed else "it has no models"
        return Missed(f"Ollama at {url} lacks {wanted or 'a model'} ({known}; `ollama pull {wanted or PREFERRED[0]}`)")
    reason = f"because {variable} names it" if variable else "because it answers there"
    block = Ollama(model=model, base_url=url, timeout_s=wish.timeout_s)
    return Choice(block, f"{model} of Ollama at {url}, {reason}")


async def _apple_fm(wish: Wish, environ: Mapping[str, str]) -> Choice | Missed:
    # An address that is given without a backend is that of one of the two servers that run anywhere.
    given = wish.base_url if wish.backend == "apple-fm" else None
    url = bridge_url({"FM_BRIDGE_URL": given} if given else environ)
    health = await ask(url, "/health")
    listed = names_in(await ask(url, "/v1/models"), "data", "id")
    if not (health or listed):
        return Missed(no_bridge(url), away=True)
    if health.get("model_available") is False:
        return Missed(f"the bridge at {url} says that Apple Intelligence gives it no model (switch it on in Settings)")
    model = _served(wish.model, listed or [APPLE_MODEL])
    if model is None:
        return Missed(f"the bridge at {url} lacks {wish.model} (it has {', '.join(listed) or APPLE_MODEL})")
    block = AppleFm(base_url=url, model=model, timeout_s=wish.timeout_s)
    return Choice(block, f"{model} of the bridge to Apple's foundation model at {url}, because it answers there")


async def _llamacpp(wish: Wish, environ: Mapping[str, str]) -> Choice | Missed:
    given = wish.base_url or environ.get("LLAMACPP_URL") or environ.get("LLAMACPP_BASE_URL") or LLAMACPP_URL
    url = given.rstrip("/").removesuffix("/v1")
    listed = names_in(await ask(url, "/v1/models"), "data", "id")
    if not listed:
        return Missed(f"no llama.cpp server answers at {url} (`llama-server`, or set LLAMACPP_URL)", away=True)
    model = _served(wish.model, listed)
    if model is None:
        return Missed(f"the llama.cpp server at {url} lacks {wish.model} (it has {', '.join(listed)})")
    block = OpenAICompatible(base_url=f"{url}/v1", model=model, timeout_s=wish.timeout_s)
    return Choice(block, f"{model} of the llama.cpp server at {url}, because it answers there")


FINDERS: dict[Backend, Callable[[Wish, Mapping[str, str]], Awaitable[Choice | Missed]]] = {
    "ollama": _ollama,
    "apple-fm": _apple_fm,
    "llamacpp": _llamacpp,
}


def _served(wanted: str | None, listed: Sequence[str]) -> str | None:
    return listed[0] if wanted is None else (wanted if wanted in listed else None)


def _embedded(wish: Wish, path: Path) -> Choice:
    block = LlamaCpp(model_path=path, model=wish.model, timeout_s=wish.timeout_s)
    return Choice(block, f"{path} in an embedded llama.cpp, because it is named")
