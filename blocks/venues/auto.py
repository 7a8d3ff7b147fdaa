"""Whatever there is to run completions on, found in a fixed order and said aloud.

1. ``SWARMC_MODEL``: a litellm model, ``ollama/NAME``, or a ``.gguf`` file.
2. A provider's key in the environment: the first of `PROVIDERS`, with a cheap model of that provider.
3. Ollama at ``OLLAMA_HOST`` (or its usual address), if it has a model.
4. A llama.cpp server at ``LLAMACPP_BASE_URL`` (or its usual address).
5. The practice model, which is always there.
"""

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pydantic import Field, SecretStr
from yarl import URL

from blocks.venues.block import VenueBlock
from blocks.venues.exchange import Exchange, Place
from blocks.venues.litellm import LiteLLM
from blocks.venues.llamacpp import LlamaCpp
from blocks.venues.ollama import BASE_URL as OLLAMA_URL
from blocks.venues.ollama import Ollama
from blocks.venues.openai_compatible import OpenAICompatible
from swarmc.contracts.errors import VenueError
from swarmc.contracts.ports import Venue

PROVIDERS = {
    "OPENAI_API_KEY": "openai/gpt-4o-mini",
    "ANTHROPIC_API_KEY": "anthropic/claude-haiku-4-5",
    "GEMINI_API_KEY": "gemini/gemini-2.5-flash-lite",
    "GROQ_API_KEY": "groq/openai/gpt-oss-20b",
    "MISTRAL_API_KEY": "mistral/mistral-small-latest",
    "DEEPSEEK_API_KEY": "deepseek/deepseek-v4-flash",
}
"""Environment variables that hold a provider's key, in the order they are looked for, and a cheap model of each."""

LLAMACPP_URL = "http://127.0.0.1:8080"
PROBE_LIMIT_S = 0.5
TIMEOUT_S = 120.0
OLLAMA_PREFIXES = ("ollama/", "ollama_chat/")

_log = logging.getLogger("swarmc.venues")


@dataclass(frozen=True, slots=True)
class Choice:
    """A venue's configuration, and the sentence that says what it is and why it was chosen."""

    block: VenueBlock
    sentence: str


async def choose(environ: Mapping[str, str] | None = None, *, timeout_s: float = TIMEOUT_S) -> Choice:
    """Find a venue, in the order that this file's docstring gives.

    Args:
        environ: The environment to look in; this process's own when not given.
        timeout_s: Longest wait for one answer, for the venue that is found.
    """
    environ = os.environ if environ is None else environ
    if model := environ.get("SWARMC_MODEL"):
        return Choice(block_of_model(model, environ, timeout_s), f"{model}, because SWARMC_MODEL names it")
    for variable, model in PROVIDERS.items():
        if key := environ.get(variable):
            block = LiteLLM(model=model, api_key=SecretStr(key), timeout_s=timeout_s)
            return Choice(block, f"{model} through litellm, because {variable} is set (SWARMC_MODEL chooses another)")
    found = await _local_servers(environ, timeout_s)
    reason = f"nothing answers at {ollama_url(environ)} or {_llamacpp_url(environ)}, and no provider's key is set"
    return found or Choice(
        LlamaCpp(timeout_s=timeout_s),
        f"the practice model, because {reason}; it knows no words but those of the example",
    )


def block_of_model(model: str, environ: Mapping[str, str], timeout_s: float) -> VenueBlock:
    """The venue that a model's name alone means: a `.gguf` file, `ollama/NAME`, or a model of litellm's."""
    if model.endswith(".gguf"):
        return LlamaCpp(model_path=Path(model), timeout_s=timeout_s)
    for prefix in OLLAMA_PREFIXES:
        if model.startswith(prefix):
            name = model.removeprefix(prefix)
            return Ollama(model=name, base_url=ollama_url(environ), timeout_s=timeout_s)
    variable = f"{model.partition('/')[0].upper()}_API_KEY"
    key = SecretStr(environ[variable]) if environ.get(variable) else None
    return LiteLLM(model=model, api_key=key, timeout_s=timeout_s)


def ollama_url(environ: Mapping[str, str]) -> str:
    """Where Ollama listens, from `OLLAMA_HOST` as Ollama reads it: scheme and port may be left out."""
    host = environ.get("OLLAMA_HOST", "").strip()
    if not host:
        return OLLAMA_URL
    try:
        url = URL(host if "://" in host else f"http://{host}")
        bare = url.explicit_port is None and "://" not in host
        url = url.with_port(11434) if bare else url
        url = url.with_host("127.0.0.1") if url.host == "0.0.0.0" else url  # noqa: S104 - what a server listens on
    except ValueError as error:
        raise VenueError(f"OLLAMA_HOST is {host!r}, which is no address ({error}); correct or unset it") from error
    return str(url).rstrip("/")


async def ask(base_url: str, path: str, *, limit_s: float = PROBE_LIMIT_S) -> dict[str, Any]:
    """The JSON object that a server gives at `path`; nothing when it gives none."""
    try:
        async with Exchange(base_url, Place(f"the server at {base_url}"), timeout_s=limit_s) as exchange:
            return await exchange.get(path)
    except VenueError:
        return {}


def names_in(answer: Mapping[str, Any], listed: str, name: str) -> list[str]:
    """The names in a server's list of models, if it is one."""
    rows = answer.get(listed)
    return [str(row[name]) for row in rows if isinstance(row, dict) and row.get(name)] if isinstance(rows, list) else []


async def _local_servers(environ: Mapping[str, str], timeout_s: float) -> Choice | None:
    url = ollama_url(environ)
    models = [name for name in names_in(await ask(url, "/api/tags"), "models", "name") if "embed" not in name]
    if models:
        block = Ollama(model=models[0], base_url=url, timeout_s=timeout_s)
        return Choice(block, f"{models[0]} of Ollama at {url}, because it answers there and no provider's key is set")
    url = _llamacpp_url(environ)
    if (await ask(url, "/health")).get("status") == "ok":
        models = names_in(await ask(url, "/v1/models"), "data", "id")
        if models:
            block = OpenAICompatible(base_url=f"{url}/v1", model=models[0], timeout_s=timeout_s)
            return Choice(block, f"{models[0]} of the llama.cpp server at {url}, because it answers there")
    return None


def _llamacpp_url(environ: Mapping[str, str]) -> str:
    return (environ.get("LLAMACPP_BASE_URL") or LLAMACPP_URL).rstrip("/").removesuffix("/v1")


@final
class Auto(VenueBlock):
    """Whatever there is: a provider whose key is in the environment, Ollama, a llama.cpp server, the practice model."""

    _block_type_name = "swarmc automatic venue"
    _block_type_slug = "swarmc-auto"
    _description = "Runs completions on whatever the machine has, looked for in a fixed order."

    timeout_s: float = Field(default=TIMEOUT_S, gt=0, description="Longest wait for one answer, in seconds")

    async def choose(self, environ: Mapping[str, str] | None = None) -> Choice:
        """The venue that `open` would open, and why."""
        return await choose(environ, timeout_s=self.timeout_s)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Venue]:
        """The venue that was found; what was chosen is logged.

        Raises:
            VenueError: what was found cannot be opened.
        """
        choice = await self.choose()
        _log.info("venue: %s", choice.sentence)
        async with choice.block.open() as venue:
            yield venue
