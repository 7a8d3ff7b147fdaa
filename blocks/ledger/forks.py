"""What a forked child must let go of: its copy of a lock would keep a run owned after its parent's death."""

import os
from collections.abc import Callable
from weakref import WeakMethod


def in_forked_children(method: Callable[[], None]) -> None:
    """Call a bound method in every child that this process forks, as long as its object lives."""
    reference = WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    os.register_at_fork(after_in_child=call)
