"""One writer a folder: a lock that the system lets go of when its process ends, however it does."""

from __future__ import annotations

import errno
import os
import time
import weakref
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows: no protection there
    fcntl = None  # type: ignore[assignment]

WAIT_SECONDS = 3.0  # in which a process that was killed has gone, and its workers with it


class FolderInUse(OSError):
    """Another process writes to the folder."""


class FolderLock:
    """Holds an existing folder for this process until :meth:`release` (or the end of a ``with`` block).

    Where the system or the file system has no such locks, nothing is held and nothing refused.

    Args:
        path: the folder.

    Raises:
        FolderInUse: another process holds it, or another lock of this one, and does not let go within seconds.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._finalizer: weakref.finalize | None = None
        if fcntl is None:
            return
        descriptor = os.open(path, os.O_RDONLY)
        self._finalizer = weakref.finalize(self, os.close, descriptor)
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    return
            if time.monotonic() > deadline:
                self.release()
                raise FolderInUse(f"{Path(path)}: another process is writing there; wait for it, or stop it first")
            time.sleep(0.05)

    def release(self) -> None:
        """Let go; twice is no error."""
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
