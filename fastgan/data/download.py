"""Downloads that are wholly there, with the right checksum, or not at all."""

import hashlib
import http.client
import os
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from .errors import DataError

TIMEOUT = 10.0  # seconds without a byte
CHUNK = 1 << 20
LARGEST = 1 << 30  # the largest real file has 170 MB


def download(urls: Sequence[str], md5: str, path: Path) -> None:
    """Download to ``path``, whose folder is made, from the first of ``urls`` that has a file with the checksum ``md5``.

    Says so in one line on stderr. Raises DataError, saying what failed, if none has; ``path`` is then not there.
    """
    print(f"downloading {urls[0]} to {path}", file=sys.stderr, flush=True)
    failures = []
    for url in urls:
        try:
            _download(url, md5, path)
            return
        except (OSError, http.client.HTTPException, DataError) as error:
            failures.append(f"{url}: {' '.join(str(error).split()) or type(error).__name__}")
    raise DataError("; ".join(failures))


def _download(url: str, md5: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    # The checksum is the publishers' own; it tells a damaged file. A hostile one is met by the readers of the formats.
    digest, size = hashlib.md5(usedforsecurity=False), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, temporary.open("wb") as file:
            while size <= LARGEST and (chunk := answer.read(CHUNK)):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != md5:
            raise DataError(f"{size} bytes with the MD5 checksum {digest.hexdigest()}, expected {md5}")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
