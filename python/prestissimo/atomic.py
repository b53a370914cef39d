# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all: written beside their destination, then renamed onto it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["atomic_path", "check_destination", "write_bytes"]


def check_destination(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The path as one that :func:`write_bytes` would accept, found out before any work is done for it.

    Raises FileNotFoundError (no such folder), IsADirectoryError, PermissionError, or FileExistsError where a
    file is there and ``overwrite`` is false.
    """
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder to write into does not exist", str(folder))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(path))
    if path.exists():
        if path.is_file() and not overwrite:
            raise FileExistsError(errno.EEXIST, "the file exists already and would be overwritten", str(path))
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "cannot be written", str(path))
    elif not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "the folder cannot be written into", str(folder))
    return path


def write_bytes(path: str | os.PathLike[str], data: bytes, *, overwrite: bool = False) -> Path:
    """Writes ``data`` to ``path`` so that no reader, crash, full disk or interrupt ever sees part of it.

    Without ``overwrite`` an existing file is never replaced, not even one that another process makes
    meanwhile (the last step is then a hard link, which fails where a rename would replace). A symbolic link
    is followed. Devices and pipes (``/dev/null``) are written directly.

    Raises OSError, with the file's name; whatever was at ``path`` before is then still there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_bytes(Path(folder) / "a.bin", b"abc")
    ...     written.read_bytes()
    b'abc'
    """
    path = check_destination(path, overwrite=overwrite)
    if path.exists() and not path.is_file():
        try:
            path.write_bytes(data)
        except OSError as error:
            raise _of(path, error) from error
        return path
    with atomic_path(path, overwrite=overwrite) as part:
        # mode 0o666 less the umask: what open() gives, where tempfile would leave 0o600
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    return path


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` for the block to write; what it wrote becomes ``path`` at its end.

    Where the block raises, or the disk is full, ``path`` stays as it was and the temporary file is removed.
    An OSError from the block comes out with ``path`` as its file's name.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        if overwrite:
            part.replace(target)
        else:
            _move_to_new(part, target)
    except OSError as error:
        raise _of(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def _of(path: Path, error: OSError) -> OSError:
    """The error with the name of the destination: write() and close() give none, or the temporary file's."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def _move_to_new(part: Path, target: Path) -> None:
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:
        # a file system without hard links; the window between the test and the rename cannot be closed there
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        part.replace(target)
