"""Files that are either wholly the old ones or wholly the new ones, and where files are kept between runs."""

import errno
import os
from pathlib import Path


def cache_folder() -> Path:
    """Where downloads and trained judges are kept: ``fastgan`` in $XDG_CACHE_HOME, by default ~/.cache. Not created."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if os.path.isabs(root) else Path.home() / ".cache"  # the XDG specification ignores relative ones
    return base / "fastgan"


def atomic_write(path: Path, data: bytes, previous: Path | None = None) -> None:
    """Replace the file at ``path`` by ``data``: after a crash, a full disk or a power cut it is the old or the new one.

    ``previous``: where the old file, if there is one, is kept; it replaces what was kept there, but not before the new
    file is whole on the disk.

    Raises OSError, naming ``path``, if it cannot be written; the old files are then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            _keep(path, previous)
        os.replace(temporary, path)
        _sync_folder(path.parent)  # the new name lives in the folder, which has its own place on the disk
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _keep(path: Path, previous: Path) -> None:
    """Let ``previous`` be the file at ``path``, by a second name, so that there is one at ``path`` at every moment."""
    link = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without links, as on many memory sticks: then for a moment there is only previous
        os.replace(path, previous)
    else:
        os.replace(link, previous)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot, and need not
            raise
    finally:
        os.close(handle)
