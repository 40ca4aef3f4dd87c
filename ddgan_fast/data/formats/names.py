"""What a member of an archive may be called."""

import os
import posixpath

from ddgan_fast.data.decode import EXTENSIONS, WANTED
from ddgan_fast.errors import DataError

SIDECARS = (".json", ".txt", ".cls", ".csv", ".md")  # labels and captions, passed over


def check_name(name, label, seen):
    """Whether a member is an image; sidecars and hidden files are none.

    label: how an error names it.  seen: names before it, this one is added.
    Raises DataError for a path that leads out of the archive, a name that was there before, and any other kind of file.
    """
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or "\0" in name:
        raise DataError(f"{label}: refused: the name leads out of the archive; do not trust this file")
    name = posixpath.normpath(name)
    if name in seen:
        raise DataError(f"{label}: refused: two members have this name; pack the archive again")
    seen.add(name)
    parts = name.split("/")
    if parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts):
        return False
    extension = os.path.splitext(parts[-1])[1].lower()
    if extension in EXTENSIONS:
        return True
    if extension in SIDECARS:
        return False
    raise DataError(f"{label}: refused: neither one of the {WANTED} nor a sidecar ({' '.join(SIDECARS)}); pack the archive without it")
