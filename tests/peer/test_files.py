"""_files.py: what is read is bounded, what is written is whole, and only one writes at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trishake._authorized_keys import AuthorizedKeys
from trishake._errors import BadFile
from trishake._files import (
    check_publishable,
    create_file,
    expanded,
    locked,
    make_directory,
    publish_file,
    read_file,
    replace_file,
    version_of,
)
from trishake._keys import Identity
from trishake._known_peers import KnownPeers
from trishake._network import Network

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"old\n")
    path.chmod(0o640)
    return path


# --- where they are -------------------------------------------------------------------------------------


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/key") == expanded(tmp_path / "key") == tmp_path / "key"
    assert expanded("a~") == Path("a~")


def test_without_a_home_nothing_is_looked_for_or_made_where_we_happen_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = "~nobody-of-this-name/app/file"
    for use in (
        Identity.load,
        Identity.load_or_create,
        Identity.generate().save,
        Network.load,
        Network.new("home").save,
        KnownPeers,
        AuthorizedKeys,
    ):
        with pytest.raises(BadFile, match="no home directory is known for it"):
            use(path)
    assert not list(tmp_path.iterdir())


# --- reading --------------------------------------------------------------------------------------------


def test_a_file_is_read_up_to_its_limit_and_no_byte_further(file: Path) -> None:
    assert read_file(file, limit=4, others_may="read")[0] == b"old\n"
    with pytest.raises(BadFile, match="4 bytes, the limit is 3"):
        read_file(file, limit=3, others_may="read")


def test_the_version_read_is_the_version_seen(file: Path) -> None:
    assert read_file(file, limit=9, others_may="read")[1] == version_of(file)


def test_where_no_file_can_be_made_the_one_that_was_wanted_is_named(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "home.network"
    for save in (Network.new("home").save, Identity.generate().save):
        with pytest.raises(FileNotFoundError) as caught:
            save(file)
        assert caught.value.filename == str(file)


def test_a_missing_file_is_not_a_bad_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none", limit=9, others_may="read")
    assert version_of(tmp_path / "none") is None


def test_a_file_that_grows_without_saying_so_is_refused() -> None:
    """Files of the kernel have no size until they are read."""
    with pytest.raises(BadFile, match="more than 5 bytes"):
        read_file(Path("/proc/self/status"), limit=5, others_may="read")


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, what in (("pipe", "no regular file"), (".", "a directory"), ("loop", "cannot be read")):
        with pytest.raises(BadFile, match=what):
            read_file(tmp_path / name, limit=9, others_may="read")
    with pytest.raises(BadFile, match="cannot be read"):
        read_file(Path("/dev/null/x"), limit=9, others_may="read")


@pytest.mark.parametrize(
    ("mode", "others_may", "advice"),
    [
        (0o620, "read", "chmod go-w"),
        (0o602, "read", "chmod go-w"),
        (0o666, "nothing", "chmod 600"),
        (0o640, "nothing", "chmod 600"),
        (0o604, "nothing", "chmod 600"),
        (0o610, "nothing", "chmod 600"),
    ],
)
def test_a_file_with_wider_rights_is_refused_and_the_advice_mends_it(
    tmp_path: Path, mode: int, others_may: str, advice: str
) -> None:
    path = tmp_path / "a name; with 'quotes'"
    path.write_bytes(b"x")
    path.chmod(mode)
    with pytest.raises(BadFile, match=advice) as caught:
        read_file(path, limit=9, others_may=others_may)
    subprocess.run(str(caught.value).partition("Run: ")[2], shell=True, check=True)
    assert read_file(path, limit=9, others_may=others_may)[0] == b"x"


@pytest.mark.parametrize(("mode", "others_may"), [(0o644, "read"), (0o600, "nothing"), (0o400, "nothing")])
def test_a_file_with_rights_that_are_narrow_enough_is_read(file: Path, mode: int, others_may: str) -> None:
    file.chmod(mode)
    assert read_file(file, limit=9, others_may=others_may)[0] == b"old\n"


def test_every_replacement_and_every_change_of_rights_is_another_version(file: Path) -> None:
    seen = {version_of(file)}
    replace_file(file, b"new\n")
    seen.add(version_of(file))
    file.chmod(0o600)
    seen.add(version_of(file))
    assert len(seen) == 3


# --- writing --------------------------------------------------------------------------------------------


def test_a_new_file_is_for_us_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        create_file(tmp_path / "created", b"1")
        replace_file(tmp_path / "replaced", b"2")
    finally:
        os.umask(before)
    assert [(path.name, mode_of(path), path.read_bytes()) for path in sorted(tmp_path.iterdir())] == [
        ("created", 0o600, b"1"),
        ("replaced", 0o600, b"2"),
    ]


@pytest.mark.parametrize("other", ["file", "directory", "dangling"])
def test_a_new_file_is_never_written_over_something(tmp_path: Path, other: str) -> None:
    path = tmp_path / "there"
    if other == "file":
        path.write_bytes(b"theirs")
    elif other == "directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(FileExistsError, match="not overwritten"):
        create_file(path, b"ours")
    assert [*tmp_path.iterdir()] == [path]
    assert other != "file" or path.read_bytes() == b"theirs"


def test_a_replaced_file_keeps_its_rights(file: Path) -> None:
    replace_file(file, b"new")
    assert (file.read_bytes(), mode_of(file), [*file.parent.iterdir()]) == (b"new", 0o640, [file])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_replaces_stays_its_owners(file: Path) -> None:
    os.chown(file, 1234, 2345)
    replace_file(file, b"new")
    assert (file.stat().st_uid, file.stat().st_gid, mode_of(file)) == (1234, 2345, 0o640)


@pytest.mark.parametrize("left", ["a part", "a link"])
def test_what_a_killed_process_or_an_enemy_left_is_neither_used_nor_followed(file: Path, left: str) -> None:
    beside, bystander = file.with_name("file.new"), file.with_name("bystander")
    bystander.write_bytes(b"untouched")
    if left == "a link":
        beside.symlink_to(bystander)
    else:
        beside.write_bytes(b"a longer part of something")
    replace_file(file, b"new")
    assert (file.read_bytes(), bystander.read_bytes()) == (b"new", b"untouched")
    assert not os.path.lexists(beside)


def test_a_replacement_that_fails_leaves_nothing_beside(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(tmp_path / "directory", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


def test_a_full_disk_loses_neither_file_nor_room(file: Path) -> None:
    """A limit of the process stands for the disk's."""
    code = """
import resource, sys
from pathlib import Path
from trishake._files import create_file, replace_file
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for call, name in ((replace_file, "file"), (create_file, "created")):
    try:
        call(Path(sys.argv[1]) / name, bytes(100_000))
    except OSError as error:
        print(type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(file.parent)], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("OSError\nOSError\n", "")
    assert [*file.parent.iterdir()] == [file]
    assert file.read_bytes() == b"old\n"


def test_what_a_full_disk_takes_in_part_is_an_error(file: Path) -> None:
    """A line of which a part is there would be read as another."""
    code = """
import resource, sys
from pathlib import Path
from trishake._errors import BadFile
from trishake._files import append_to_file
resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))
try:
    append_to_file(Path(sys.argv[1]), b"0123456789")
except BadFile as error:
    print(error)
"""
    file.chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{file}: it cannot be written: No space left on device.")
    assert file.read_bytes() == b"old\n0123"


@pytest.mark.parametrize("write", [replace_file, publish_file])
def test_the_data_is_on_the_disk_before_its_name_and_the_name_before_the_return(
    file: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    """Else, a loss of power leaves an empty file where there was one."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        calls.append(
            "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else f"{os.fstat(descriptor).st_size}"
        )
        fsync(descriptor)

    def seen_replace(source: Path, target: Path) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    write(file, b"seven..")
    assert calls == ["7", "replace", "directory"]


# --- what is no secret ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0, 0o666)])
def test_a_published_file_is_as_readable_as_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    path, before = tmp_path / "picture", os.umask(umask)
    try:
        publish_file(path, b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert [*tmp_path.iterdir()] == [path]


def test_whether_a_file_can_be_published_is_asked_without_a_trace(file: Path) -> None:
    before = version_of(file)
    check_publishable(file)
    check_publishable(file.parent / "new")
    assert [*file.parent.iterdir()] == [file]
    assert version_of(file) == before


@pytest.mark.parametrize("call", [check_publishable, lambda path: publish_file(path, b"new")])
@pytest.mark.parametrize("where", [".", "missing/new", "file/below"])
def test_what_cannot_be_published_is_a_bad_file_and_leaves_nothing(
    file: Path, where: str, call: Callable[[Path], None]
) -> None:
    with pytest.raises(BadFile, match="it cannot be written"):
        call(file.parent / where)
    assert [*file.parent.iterdir()] == [file]


def test_a_file_that_does_not_come_into_its_place_leaves_nothing_beside(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(source: object, target: object) -> None:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(BadFile, match="it cannot be written: busy"):
        publish_file(file, b"new")
    assert [*file.parent.iterdir()] == [file]
    assert file.read_bytes() == b"old\n"


def test_a_pipe_takes_more_than_it_holds(tmp_path: Path) -> None:
    pipe, data = tmp_path / "pipe", bytes(2**20)
    os.mkfifo(pipe)
    read: list[bytes] = []
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        os.set_blocking(reader.fileno(), True)
        thread = threading.Thread(target=lambda: read.append(reader.read()))
        check_publishable(pipe)
        with open(pipe, "wb"):  # until there is a writer, to read is to come to the end
            thread.start()
            publish_file(pipe, data)
        thread.join()
    assert read == [data]


# --- directories ----------------------------------------------------------------------------------------


def test_missing_directories_are_made_for_us_alone_and_others_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_directory(tmp_path / "a" / "b")
    make_directory(tmp_path / "a" / "b")
    assert [mode_of(path) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")] == [0o755, 0o700, 0o700]


def test_no_directory_is_made_below_a_file(file: Path) -> None:
    with pytest.raises(NotADirectoryError):
        make_directory(file / "a" / "b")


# --- the lock -------------------------------------------------------------------------------------------


async def test_one_after_the_other_has_the_lock(file: Path) -> None:
    inside = most = entries = 0

    async def enter() -> None:
        nonlocal inside, most, entries
        async with locked(file):
            inside += 1
            most = max(most, inside)
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            inside -= 1
            entries += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(enter)
    assert (most, entries) == (1, 5)


async def test_the_lock_is_beside_the_file_and_for_us_alone(file: Path) -> None:
    async with locked(file):
        pass
    assert mode_of(file.with_name("file.lock")) == 0o600
    assert file.read_bytes() == b"old\n"


async def test_a_lock_that_is_a_link_is_not_followed(file: Path) -> None:
    """In a directory that others write, it would make or open what they like."""
    file.with_name("file.lock").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        async with locked(file):
            raise AssertionError
    assert not file.with_name("elsewhere").exists()


@pytest.mark.parametrize("end", ["left", "raised"])
async def test_the_lock_is_given_back_also_if_a_fork_lives_on(file: Path, end: str) -> None:
    child = 0
    try:
        async with locked(file):
            alive, parent = os.pipe()
            child = os.fork()
            if child == 0:  # holds a copy of every descriptor, until its parent is done
                os.close(parent)
                os.read(alive, 1)
                os._exit(0)
            os.close(alive)
            if end == "raised":
                raise KeyError
    except KeyError:
        pass
    with trio.fail_after(2):
        async with locked(file):
            pass
    os.close(parent)
    os.waitpid(child, 0)


async def test_who_waited_for_a_lock_that_was_removed_takes_the_new_one(file: Path) -> None:
    """Else, two have it: one the removed file's, the other the new one's."""
    lock = file.with_name("file.lock")
    lock.touch(0o600)
    descriptor = os.open(lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    opened = os.open
    removals = 1

    def removing_open(path: str, *args: int) -> int:
        nonlocal removals
        result = opened(path, *args)
        if removals:
            removals = 0
            lock.unlink()
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", removing_open)
        async with locked(file):
            other = opened(lock, os.O_RDWR)
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(other)
    os.close(descriptor)


async def test_who_is_cancelled_while_waiting_holds_nothing(file: Path, autojump_clock: MockClock) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with locked(file):
        before = descriptors()
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                async with locked(file):
                    raise AssertionError

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert descriptors() == before
    with trio.fail_after(1):
        async with locked(file):
            pass


async def test_a_lock_in_a_missing_directory_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with locked(tmp_path / "none" / "file"):
            raise AssertionError


AS_ANOTHER = """
import os, shlex, sys
from pathlib import Path
from trishake import BadFile
from trishake._files import read_file

os.setuid(1234)
for path in sys.argv[1:]:
    try:
        print(read_file(Path(path), limit=9, others_may="read")[0].decode())
    except BadFile as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file another user's")
def test_a_file_of_another_user_is_refused_but_roots_is_not() -> None:
    with tempfile.TemporaryDirectory() as directory:  # tmp_path is in a directory that is root's alone
        os.chmod(directory, 0o755)
        paths = [os.path.join(directory, str(owner)) for owner in (0, 1234, 4321)]
        for path in paths:
            Path(path).write_bytes(b"whose")
            os.chmod(path, 0o644)
            os.chown(path, int(os.path.basename(path)), -1)
        command = [sys.executable, "-c", AS_ANOTHER, *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    *mine, others = done.stdout.splitlines()
    assert mine == ["whose", "whose"]
    assert others == f"{paths[2]}: it belongs to another user (uid 4321). Run: sudo chown $USER {paths[2]}"
