"""Files of keys and of trust: read within bounds, written whole or not at all.

They are small and on the local disk, and are read and written where they stand, not in a thread: Trio's virtual
clock would run on while a thread works.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from ._errors import BadFile, as_argument

FilePath = str | os.PathLike[str]

_LOCK_POLL: Final = 0.005
"""Seconds between two looks at a lock that another holds; it is held for a few milliseconds."""

Version = tuple[int, ...]
"""What changes when a file does: device, inode, size, times."""

_COARSEST_TICK: Final = 2.0
"""Seconds. Two changes within one tick of a file system's clock leave the same times; FAT's is the longest."""


def expanded(path: FilePath) -> Path:
    """The path, with `~` and `~user` as the home directory. Raises BadFile if there is none."""
    given = os.fspath(path)
    found = os.path.expanduser(given)
    if found.startswith("~"):  # taken as it stands, it would be a directory of that name, wherever we happen to be
        raise BadFile(Path(path), "no home directory is known for it", "Set HOME, or give the path without `~`.")
    return Path(found)


def version_of(path: Path) -> Version | None:
    """Which version of the file is there; None if there is none."""
    try:
        return _version(os.stat(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None


def is_settled(version: Version) -> bool:
    """Whether a change from now on gives another version; of a file that is young, it may not."""
    *_, modified, changed = version
    return time.time() - max(modified, changed) / 1e9 > _COARSEST_TICK


def read_file(path: Path, *, limit: int, others_may: str) -> tuple[bytes, Version]:
    """All of a regular file of at most `limit` bytes, and which version of it that is.

    others_may: what group and others may do with it at most: `read`, or `nothing` for a secret; as ssh does, a
    file with wider rights is refused. A symbolic link is followed, the rights are those of what it leads to.
    Raises FileNotFoundError if it is missing, BadFile for all else that is wrong with it.
    """
    try:
        # Without O_NONBLOCK, to open a named pipe would wait for who writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise BadFile(path, f"it is {what}", "Give the path of a file.")
        _check_rights(path, status, others_may)
        if status.st_size > limit:
            raise BadFile(path, f"{status.st_size} bytes, the limit is {limit}", "Is it the right file?")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise BadFile(path, f"more than {limit} bytes", "Is it the right file?")
    return data, _version(status)


def create_file(path: Path, data: bytes) -> None:
    """Write a new file that nobody else may read (0600): all of it or nothing, and never over another one.

    Raises FileExistsError if something is there already.
    """
    temporary = _write_beside(path, data, _unique_suffix(), 0o600)
    try:
        os.link(temporary, path)  # unlike a rename, it fails where something is
    except FileExistsError:
        raise FileExistsError(
            errno.EEXIST, "there is a file already, which is not overwritten", str(path)
        ) from None
    finally:
        temporary.unlink()
    _sync_directory(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in the place of the one that is there, with the same rights, or as a new one (0600).

    Who reads meanwhile, or after a crash, finds the old one or the new one, and never a part. To be called with
    `locked`. A symbolic link is replaced, not followed: resolve it first.
    """
    try:
        old = os.stat(path)
    except FileNotFoundError:
        temporary = _write_beside(path, data, ".new", 0o600)
    else:
        temporary = _write_beside(path, data, ".new", stat.S_IMODE(old.st_mode), (old.st_uid, old.st_gid))
    _put_in_place(temporary, path)


def append_to_file(path: Path, data: bytes) -> None:
    """Put this at the end of a file that nobody else may read (0600), in one write; made where it is missing.

    What several processes append so stands there whole, one behind the other. A symbolic link is followed.
    Raises BadFile if others may use it, or it cannot be written.
    """
    with _unwritable(path, "Check the path, its rights, and the room on its disk."):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadFile(path, "it is no regular file", "Give the path of a file.")
            _check_rights(path, status, "nothing")
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)


def check_publishable(path: Path) -> None:
    """Whether `publish_file` can write there, as far as that can be known before. Raises BadFile."""
    with _unwritable(path):
        if _is_special(path):
            # Not opened: whoever reads a pipe would take its being closed again for the end.
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        else:
            _write_public(path.resolve(), b"").unlink()


def publish_file(path: Path, data: bytes) -> None:
    """Write what is no secret, in the place of what is there: all of it or nothing, as readable as the umask says.

    A symbolic link is followed; a pipe or a device is written to.
    Raises BadFile, also for a pipe that nobody reads.
    """
    with _unwritable(path):
        if _is_special(path):
            # Without O_NONBLOCK, to open a pipe would wait for who reads it.
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            with os.fdopen(descriptor, "wb") as file:
                os.set_blocking(descriptor, True)
                file.write(data)
            return
        target = path.resolve()
        _put_in_place(_write_public(target, data), target)


@contextmanager
def _unwritable(path: Path, advice: str = "Give the path of a file that you may write.") -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise BadFile(path, f"it cannot be written: {error.strerror}", advice) from None


def _is_special(path: Path) -> bool:
    """Whether it is a pipe or a device. Raises OSError for a directory."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return not stat.S_ISREG(mode)


def _write_public(path: Path, data: bytes) -> Path:
    """Written beside it, under a name of nobody else's, with the rights of the one that is there."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        mode = None
    return _write_beside(path, data, _unique_suffix(), mode)


def make_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, for us alone (0700); one that is there stays."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with suppress(FileExistsError):  # another process was quicker
        path.mkdir(0o700)
    _sync_directory(path.parent)


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[None]:
    """Be the only one who replaces this file, of all processes that lock it, until the block is left.

    The lock is on a file beside it, `.lock`, which stays; the system gives it back when its holder dies.
    """
    import fcntl  # there is none but on Unix

    lock = _beside(path, ".lock")
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, lock):
                break
        except BlockingIOError:
            os.close(descriptor)
            await trio.sleep(_LOCK_POLL)
        except BaseException:
            os.close(descriptor)
            raise
        else:
            os.close(descriptor)  # somebody has removed it meanwhile: others lock another file
    try:
        yield
    finally:
        # Closing is not enough where a fork within the block has a copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _unique_suffix() -> str:
    return f".{os.urandom(4).hex()}.new"


def _write_beside(
    path: Path, data: bytes, suffix: str, mode: int | None, owner: tuple[int, int] | None = None
) -> Path:
    """mode: its rights; those that the umask leaves, if None."""
    temporary = _beside(path, suffix)
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()  # of one who was killed at this
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
    except OSError as error:  # it names a file that nobody has heard of
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            if owner is not None:
                with suppress(OSError):  # only root gives files away: what root mends stays its owner's
                    os.fchown(descriptor, *owner)
            if mode is not None:
                os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        temporary.unlink()
        raise
    return temporary


def _put_in_place(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink()
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """So that the new name outlives a loss of power too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_rights(path: Path, status: os.stat_result, others_may: str) -> None:
    if os.name != "posix":
        return
    quoted, mode = as_argument(path), status.st_mode & 0o777
    # Root may read whoever's file, and in a container all that is mounted is another's.
    if os.geteuid() not in (0, status.st_uid) and status.st_uid != 0:
        raise BadFile(path, f"it belongs to another user (uid {status.st_uid})", f"Run: sudo chown $USER {quoted}")
    if others_may == "nothing" and mode & 0o077:
        raise BadFile(path, f"others may use it: its mode is {mode:04o}", f"Run: chmod 600 {quoted}")
    if mode & 0o022:
        raise BadFile(path, f"others may write it: its mode is {mode:04o}", f"Run: chmod go-w {quoted}")


def _version(status: os.stat_result) -> Version:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _unreadable(path: Path, error: OSError) -> BadFile:
    return BadFile(path, f"it cannot be read: {error.strerror}", "Check the path and its rights.")
