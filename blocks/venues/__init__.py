"""Where completions run: one file a venue, and the register of them all."""

from blocks.venues.apple_fm import AppleFm
from blocks.venues.auto import Auto
from blocks.venues.block import VenueBlock
from blocks.venues.find import find_venue
from blocks.venues.litellm import LiteLLM
from blocks.venues.llamacpp import LlamaCpp
from blocks.venues.ollama import Ollama
from blocks.venues.openai_compatible import OpenAICompatible
from blocks.venues.pylon import Pylon

__all__ = [
    "VENUES",
    "AppleFm",
    "Auto",
    "LiteLLM",
    "LlamaCpp",
    "Ollama",
    "OpenAICompatible",
    "Pylon",
    "VenueBlock",
    "find_venue",
]

VENUES: dict[str, type[VenueBlock]] = {
    "litellm": LiteLLM,
    "openai": OpenAICompatible,
    "ollama": Ollama,
    "llamacpp": LlamaCpp,
    "apple-fm": AppleFm,
    "pylon": Pylon,
    "auto": Auto,
}
"""Every venue's saved configuration, by the word that names it."""
