"""Files that are either wholly the old ones or wholly the new ones, and where files are kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where downloads and trained judges are kept: ``fastgan`` in $XDG_CACHE_HOME, by default ~/.cache. Not created."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if os.path.isabs(root) else Path.home() / ".cache"  # the XDG specification ignores relative ones
    return base / "fastgan"


def atomic_write(path: Path, data: bytes) -> None:
    """Replace the file at ``path`` by ``data``: after a crash, a full disk or a power cut it is the old or the new one.

    Raises OSError, naming ``path``, if it cannot be written; the old file, if any, is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name lives in the folder, which has its own place on the disk
        finally:
            os.close(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
