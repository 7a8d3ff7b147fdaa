"""A guard beside a sandbox: when the process that opened it dies, whatever way, it ends the commands and tidies up.

Bubblewrap dies with its parent, but only once it has asked for that: a parent that is killed in the milliseconds
before would leave a stranger's command running.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

GUARD = """
read -r _ && exit 0
house=$1; shift
tries=0
while [ $tries -lt 200 ]; do
    left=
    for group in "$@"; do
        for folder in "$group"-job-*; do
            [ -d "$folder" ] || continue
            while read -r pid; do kill -9 "$pid"; done < "$folder/cgroup.procs"
            rmdir "$folder" || left=1
        done
    done
    [ -n "$left" ] || break
    tries=$((tries + 1))
    sleep 0.02
done
chmod -R u+rwx -- "$house"
rm -rf --one-file-system -- "$house"
"""
"""Told a line, it goes. Its input ends without one when who holds the other end is gone."""

PATH = "/usr/bin:/bin"
FAREWELL_S = 5.0


@contextmanager
def guarded(house: Path, parents: Sequence[Path]) -> Iterator[None]:
    """Guard the groups of a house, and the house, while this process lives.

    Args:
        house: The sandbox's folder.
        parents: Where its control groups are made, under its name.
    """
    groups = [str(parent / house.name) for parent in dict.fromkeys(parents)]
    guard = subprocess.Popen(  # noqa: S603 - our own words
        ["/bin/sh", "-c", GUARD, "guard", str(house), *groups],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"PATH": PATH},
        # A signal to the whole group of processes, as Ctrl-C is, must not take the guard along.
        start_new_session=True,
    )
    try:
        yield
    finally:
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            guard.communicate(b"done\n", timeout=FAREWELL_S)
