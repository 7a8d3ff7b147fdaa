"""What became of a compile's winner."""

from typing import Literal

from swarmc.contracts.canonical import ContentId, Contract


class Promotion(Contract):
    """What became of a compile's winner under its name.

    Attributes:
        name: The compile's name; one program runs under it.
        decision: `promoted`: it runs now; `kept`: what ran before still does, or nothing does.
        reason: Why, for people.
        run_id: The run that decided.
        compiled_id: The winner.
        manifest_uri: The manifest of what runs under the name from now on; `None` when nothing does.
        compiled_uri: Its `compiled.json`.
        incumbent_id: What ran before; `None` when nothing did.
    """

    name: str
    decision: Literal["promoted", "kept"]
    reason: str
    run_id: str
    compiled_id: ContentId
    manifest_uri: str | None = None
    compiled_uri: str | None = None
    incumbent_id: ContentId | None = None
