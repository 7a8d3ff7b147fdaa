"""Where completions run: one file a venue, and the register of them all."""

from blocks.venues.auto import Auto
from blocks.venues.block import VenueBlock
from blocks.venues.find import find_venue
from blocks.venues.litellm import LiteLLM
from blocks.venues.llamacpp import LlamaCpp
from blocks.venues.ollama import Ollama
from blocks.venues.openai_compatible import OpenAICompatible

__all__ = ["VENUES", "Auto", "LiteLLM", "LlamaCpp", "Ollama", "OpenAICompatible", "VenueBlock", "find_venue"]

VENUES: dict[str, type[VenueBlock]] = {
    "litellm": LiteLLM,
    "openai": OpenAICompatible,
    "ollama": Ollama,
    "llamacpp": LlamaCpp,
    "auto": Auto,
}
"""Every venue's saved configuration, by the word that names it."""
