"""The process behind an embedded llama.cpp: it serves until the pipe from its parent closes, however the parent ends.

It is run by its path, with one JSON object as the first line of its input (see `Plan` in
`blocks/venues/llamacpp.py`), and answers with one: `addresses`, or `error`. llama.cpp lives in a
process of its own because loading a model holds the interpreter's lock for its whole duration, an
assertion in native code ends the process it is in, and a server's destructor may wait for ever.
"""

import importlib
import json
import os
import signal
import sys
import time
from typing import Any

HTTP_THREADS = 4
ERRORS_ONLY = 1
LOG_S = 0.3
"""llama.cpp logs from a thread of its own, which on a busy machine may be late with the reason of a failure."""


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides when we end.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever native code prints goes where the log goes.
    plan = json.loads(sys.stdin.buffer.readline())
    xllamacpp = importlib.import_module("xllamacpp")
    try:
        servers = [xllamacpp.Server(_parameters(xllamacpp, plan)) for _ in range(plan["engines"])]
        told: dict[str, Any] = {"addresses": [server.listening_address for server in servers]}
    except (RuntimeError, ValueError, TypeError) as error:
        told = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(told), file=answers, flush=True)
    if "error" in told:
        time.sleep(LOG_S)
        return  # The ordinary way, on which llama.cpp writes out what it has logged.
    sys.stdin.buffer.read()
    os._exit(0)  # Without the destructors.


def _parameters(xllamacpp: Any, plan: dict[str, Any]) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = plan["model_path"]
    parameters.model_alias = {plan["model"]}
    parameters.n_parallel = plan["slots"]
    parameters.n_ctx = plan["slots"] * plan["context_tokens"]
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = plan["threads"]
    parameters.n_threads_http = max(HTTP_THREADS, 2 * plan["slots"])
    parameters.cache_prompt = plan["cache_prompt"]
    if not plan["cache_prompt"]:
        parameters.cache_ram_mib = 0
    parameters.api_keys = [plan["api_key"]]
    parameters.cors_origins = ""
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.verbosity = ERRORS_ONLY
    return parameters


if __name__ == "__main__":
    main()
