"""The directory store on a real file system: whole files only, kept once, whatever happens to disk or process."""

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blocks.stores import DirectoryStore, OpenDirectory
from swarmc.contracts.canonical import content_id
from swarmc.contracts.errors import StoreError
from swarmc.contracts.ports import Store

KILLED_PUT_BYTES = 8 * 1024**2
ENDLESS_WRITER = f"""
import asyncio, os, pathlib, sys
from blocks.stores import OpenDirectory

async def write(store):
    while True:
        await store.put(os.urandom({KILLED_PUT_BYTES}), name="large.bin")

async def main():
    store = OpenDirectory(pathlib.Path(sys.argv[1]))
    await asyncio.gather(*(write(store) for _ in range(4)))

asyncio.run(main())
"""
SMALL_DISK_USER = """
import asyncio, json, os, pathlib, subprocess, sys
from blocks.stores import DirectoryStore
from swarmc.contracts.errors import StoreError

async def refusal(store, data):
    try:
        await store.put(data, name="large.bin")
    except StoreError as error:
        return str(error)

async def main(disk):
    async with DirectoryStore(path=disk / "store").open() as store:
        uri = await store.put(b"kept", name="kept.txt")
        full = await refusal(store, os.urandom(2_000_000))
        left = [path.name for path in (disk / "store" / "tmp").iterdir()]
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    async with DirectoryStore(path=disk / "store").open() as store:
        read_only = await refusal(store, b"more")
        kept = (await store.get(uri)).decode()
    print(json.dumps({"full": full, "read_only": read_only, "left": left, "kept": kept}))

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def _file(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _objects(root: Path) -> list[Path]:
    return sorted((root / "objects").rglob("content"))


def _flip_a_bit(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


async def test_people_find_the_bytes_under_every_name_they_were_given(directory: Store) -> None:
    uri = await directory.put(b"{}", name="manifest.json")
    await directory.put(b"{}", name="report.json")
    folder = _file(uri).parent
    assert sorted(path.name for path in folder.iterdir()) == ["content", "manifest.json", "report.json"]
    assert len({path.stat().st_ino for path in folder.iterdir()}) == 1
    assert (folder / "manifest.json").read_bytes() == b"{}"


async def test_writers_at_the_same_time_keep_the_bytes_once(directory: Store, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    await asyncio.gather(*(directory.put(data, name=f"{number}.bin") for number in range(24)))
    (content,) = _objects(tmp_path / "store")
    files = list(content.parent.iterdir())
    assert len(files) == 25
    assert len({path.stat().st_ino for path in files}) == 1
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


async def test_a_flipped_bit_is_found_and_putting_again_repairs_it(directory: Store) -> None:
    uri = await directory.put(b"artifact", name="a.txt")
    _flip_a_bit(_file(uri))
    with pytest.raises(StoreError, match="is damaged") as caught:
        await directory.get(uri)
    assert uri in str(caught.value)
    assert await directory.put(b"artifact", name="a.txt") == uri
    assert await directory.get(uri) == b"artifact"
    assert _file(uri).with_name("a.txt").read_bytes() == b"artifact"


@pytest.mark.parametrize("harm", [b"", b"art", b"artifact and more"])
async def test_an_object_of_another_length_is_found_and_repaired(directory: Store, harm: bytes) -> None:
    uri = await directory.put(b"artifact", name="a.txt")
    _file(uri).chmod(0o644)
    _file(uri).write_bytes(harm)
    with pytest.raises(StoreError, match="is damaged"):
        await directory.get(uri)
    await directory.put(b"artifact", name="b.txt")
    assert await directory.get(uri) == b"artifact"


async def test_an_object_over_a_gibibyte_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async with DirectoryStore(path=tmp_path).open() as store:
        uri = await store.put(b"small", name="small.bin")
        _file(uri).chmod(0o644)
        os.truncate(_file(uri), 1024**3 + 1)
        with pytest.raises(StoreError, match="has 1073741825 bytes, over this store's limit of 1073741824"):
            await store.get(uri)


async def test_a_label_is_a_read_only_file_that_follows_its_last_object(directory: Store, tmp_path: Path) -> None:
    for data in (b"first", b"second", b"second", b"first"):
        uri = await directory.put(data, name="manifest.json")
        label = tmp_path / "store" / "runs" / "abc" / "manifest.json"
        assert await directory.label("runs/abc/manifest.json", uri) == str(label)
        assert label.read_bytes() == data
        assert label.stat().st_mode & 0o222 == 0
        assert [path.name for path in label.parent.iterdir()] == ["manifest.json"]
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


async def test_a_label_that_moves_is_never_missing_or_half(directory: Store, tmp_path: Path) -> None:
    versions = [os.urandom(50_000) for _ in range(2)]
    uris = [await directory.put(data, name="v.bin") for data in versions]
    await directory.label("latest", uris[0])

    async def move() -> None:
        for number in range(60):
            await directory.label("latest", uris[number % 2])

    moving = asyncio.create_task(move())
    seen = set()
    while not moving.done():
        seen.add(await asyncio.to_thread((tmp_path / "store" / "latest").read_bytes))
    await moving
    assert seen == set(versions)


async def test_a_label_that_is_already_a_folder_is_refused(directory: Store) -> None:
    uri = await directory.put(b"{}", name="manifest.json")
    await directory.label("runs/abc/manifest.json", uri)
    for label in ("runs/abc", "runs/abc/manifest.json/below"):
        with pytest.raises(StoreError, match=r"labelling file://.*choose another path"):
            await directory.label(label, uri)


async def test_an_object_with_as_many_links_as_the_file_system_allows_is_copied(
    directory: Store, tmp_path: Path
) -> None:
    uri = await directory.put(b"popular", name="popular.txt")
    (tmp_path / "links").mkdir()
    try:
        for number in range(66_000):
            os.link(_file(uri), tmp_path / "links" / str(number))
        pytest.skip("this file system allows over 66,000 links to a file")
    except OSError:
        await directory.label("runs/abc/popular.txt", uri)
    assert (tmp_path / "store" / "runs" / "abc" / "popular.txt").read_bytes() == b"popular"


async def test_a_store_that_was_moved_answers_its_old_uris(directory: Store, tmp_path: Path) -> None:
    uri = await directory.put(b"moved", name="m.txt")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    assert await OpenDirectory(tmp_path / "elsewhere").get(uri) == b"moved"
    with pytest.raises(StoreError, match=f"is not in the store {tmp_path}/store"):
        await directory.get(uri)


async def test_old_leftovers_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    old, fresh = f"{int(time.time()) - 90_000}-dead", f"{int(time.time()) - 3_600}-alive"
    for name in (old, fresh, "notes.txt"):
        (tmp_path / "tmp" / name).write_bytes(b"half")
    async with DirectoryStore(path=tmp_path).open():
        assert sorted(path.name for path in (tmp_path / "tmp").iterdir()) == sorted([fresh, "notes.txt"])


async def test_opening_a_store_writes_nothing(tmp_path: Path) -> None:
    async with DirectoryStore(path=tmp_path / "store").open():
        assert not (tmp_path / "store").exists()


async def test_a_path_that_is_a_file_is_refused_at_opening(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=f"{path}.*not a directory"):
            async with DirectoryStore(path=path).open() as store:
                await store.put(b"{}", name="manifest.json")


async def test_a_write_that_breaks_off_leaves_nothing_behind(directory: Store, tmp_path: Path) -> None:
    uri = await directory.put(b"before", name="before.txt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StoreError, match=r"keeping large.bin \(90000 bytes\) in .*over the size"):
            await directory.put(os.urandom(90_000), name="large.bin")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.as_uri() for path in _objects(tmp_path / "store")] == [uri]
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_a_full_and_a_read_only_disk_are_said_and_what_was_kept_is_still_read(tmp_path: Path) -> None:
    namespace = ["unshare", "--map-root-user", "--mount"]
    mount = 'mount -t tmpfs -o size=1m none "$1"'
    if not _succeeds([*namespace, "sh", "-c", mount, "sh", str(tmp_path)]):
        pytest.skip("this machine lets no test mount a small disk of its own")
    script = f'{mount} && exec "$2" -c "$3" "$1"'
    command = [*namespace, "sh", "-c", script, "sh", tmp_path, sys.executable, SMALL_DISK_USER]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, env=_environment()).stdout)
    assert "the disk is full; free some space" in found["full"]
    assert "the file system is read-only; choose a directory" in found["read_only"]
    assert (found["left"], found["kept"]) == ([], "kept")


def test_a_writer_that_is_killed_leaves_no_partial_object(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, root], env=_environment()) as writer:
        try:
            _wait_for_half_a_file(writer, root)
        finally:
            writer.kill()
    assert writer.returncode == -signal.SIGKILL
    for content in _objects(root):
        data = content.read_bytes()
        assert content_id(data) == f"sha256:{content.parent.parent.name}{content.parent.name}"
        assert asyncio.run(OpenDirectory(root).put(data, name="large.bin")) == content.as_uri()
    shutil.rmtree(root)  # too large to be kept for a look


def _wait_for_half_a_file(writer: subprocess.Popen, root: Path) -> None:
    """Until an object is finished and another file, wherever it is written, is seen while it grows."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        assert writer.poll() is None, "the writer ended by itself"
        if not _objects(root):
            time.sleep(0.02)
            continue
        for path in (*root.glob("tmp/*"), *_objects(root)):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size < KILLED_PUT_BYTES:
                    return
    pytest.fail("in a minute no put was seen half done")


def _succeeds(command: list[str]) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def _environment() -> dict[str, str]:
    """Ours, with the import path under which this test found the house."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
