"""An in-toto statement about a run: what was compiled, from which examples, by which calls, with which scores.

Sources: in-toto Statement v1 and its DSSE envelope (the bytes that are signed are DSSE's
pre-authentication encoding, so that a signature of something else is never one of a statement).
"""

import json
from collections.abc import Callable

from pydantic import JsonValue

from swarmc.contracts.bundle import Signature, SignedStatement
from swarmc.contracts.canonical import ContentId, canonical_bytes
from swarmc.contracts.manifest import CompiledModuleManifest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:swarmc:compile:v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

Sign = Callable[[bytes], Signature]
"""Signs bytes; the key stays where it is."""


def statement_of(manifest: CompiledModuleManifest, root: ContentId) -> bytes:
    """The statement's canonical JSON.

    Args:
        manifest: Of the run. Its id, and that of the compiled program, are the statement's subjects.
        root: The hash over all receipts, as `ledger_root` makes it.
    """
    card = manifest.scorecard.model_dump(mode="json")
    subjects = {"manifest.json": manifest.content_id, "compiled.json": manifest.compiled_id}
    statement: JsonValue = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": identity.removeprefix("sha256:")}}
            for name, identity in subjects.items()
            if identity is not None
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "compiled_id": manifest.compiled_id,
            "ledger_root": root,
            "optimizer": manifest.optimizer,
            "run_id": manifest.run_id,
            "scores": {name: card[name] for name in ("truth_score", "baseline_score", "improvement")},
            "cost_msats": manifest.scorecard.optimization_cost_msats,
            "spec_id": manifest.spec_id,
            "trainset_id": manifest.trainset_id,
            "verdict": manifest.verdict,
        },
    }
    return canonical_bytes(statement)


def signed_statement(manifest: CompiledModuleManifest, root: ContentId, sign: Sign) -> SignedStatement:
    """The statement with one signature."""
    statement = statement_of(manifest, root)
    return SignedStatement(statement=statement.decode(), signatures=(sign(bytes_to_sign(statement)),))


def bytes_to_sign(statement: bytes) -> bytes:
    """DSSE's pre-authentication encoding of a statement.

    >>> bytes_to_sign(b"{}")
    b'DSSEv1 28 application/vnd.in-toto+json 2 {}'
    """
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(statement), statement)


def problems_of(statement: str, manifest: CompiledModuleManifest, root: ContentId) -> list[str]:
    """What a statement says otherwise than the bundle that holds it; empty when they agree."""
    if statement.encode() == statement_of(manifest, root):
        return []
    told, right = json.loads(statement), json.loads(statement_of(manifest, root))
    if not isinstance(told, dict) or told.keys() != right.keys():
        return ["the statement is no in-toto statement of a compile"]
    predicate = told["predicate"] if isinstance(told["predicate"], dict) else {}
    names = [name for name, value in right["predicate"].items() if predicate.get(name) != value]
    names += [name for name in ("_type", "subject", "predicateType") if told[name] != right[name]]
    return [f"the statement's {', '.join(names) or 'predicate'} are not the bundle's"]
