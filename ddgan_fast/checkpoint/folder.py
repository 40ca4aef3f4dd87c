"""Folders of tensors that are complete or absent: written aside, fsynced, hashed, renamed; verified when read (design: faults 1, 3)."""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file

from ddgan_fast.config import FORMAT_VERSION
from ddgan_fast.errors import CheckpointError, ResourceError

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
MAX_HEADER = 8 << 20
MAX_JSON = 1 << 20


def sync(path):
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path):
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path, value):
    """Write a value as indented JSON."""
    Path(path).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path):
    """The JSON object in a file of at most 1 MiB. Raises CheckpointError for anything else, and for a newer format."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError(f"{path}: larger than 1 MiB; not a file of ours")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold a JSON object")
    version = value.get("format_version", 1)
    if type(version) is not int or version > FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version!r}; this ddgan_fast reads up to {FORMAT_VERSION}: upgrade it")
    return value


def read_tensors(path):
    """{name: tensor} of a safetensors file, on the CPU. Raises CheckpointError where it is missing, truncated or foreign."""
    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MAX_HEADER:
            raise CheckpointError(f"{path}: not a safetensors file (its header claims {header} bytes)")
        return load_file(path) if _is_utf8(path) else load(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error


def _is_utf8(path):
    """Whether safetensors can open a file of this name."""
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def write_folder(path, write):
    """Fill a new folder by `write(temporary path)`, flush it, and give it its name.

    An older folder of that name is replaced at the end. On an error nothing of the new one stays; a full or read-only disk
    raises ResourceError.
    """
    path = Path(path).resolve()
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    old = path.with_name(f".old-{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        write(temporary)
        for file in temporary.rglob("*"):
            sync(file)
        sync(temporary)
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise ResourceError(f"{path}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_checkpoint(root, step, tensors, state):
    """Write root/checkpoint-<step>: one safetensors file per entry of `tensors`, state.json, manifest.json with their SHA-256."""

    def write(folder):
        for name, values in tensors.items():
            save_file(values, folder / f"{name}.safetensors")
        write_json(folder / "state.json", {"format_version": FORMAT_VERSION, **state})
        write_json(folder / MANIFEST, {"format_version": FORMAT_VERSION, "sha256": {f.name: sha256(f) for f in sorted(folder.iterdir())}})

    path = Path(root) / f"checkpoint-{step:08d}"
    write_folder(path, write)
    return path


def verify(path):
    """Raises CheckpointError, naming the file, unless every file of a checkpoint is there with the SHA-256 of its manifest."""
    hashes = read_json(path / MANIFEST).get("sha256")
    if not isinstance(hashes, dict) or not hashes:
        raise CheckpointError(f"{path / MANIFEST}: lists no files")
    for name, expected in hashes.items():
        file = path / Path(name).name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing, but listed in {MANIFEST}")
        if sha256(file) != expected:
            raise CheckpointError(f"{file}: SHA-256 differs from {MANIFEST}; the file was changed or cut off")


def newest_checkpoint(root):
    """The newest checkpoint under `root` that verifies; a broken one is passed over with a warning. None where there is none.

    Raises CheckpointError where there are checkpoints and none is good.
    """
    found = sorted(Path(root).glob("checkpoint-*"), reverse=True)
    for path in found:
        try:
            verify(path)
            return path
        except CheckpointError as error:
            log.warning("%s; trying the checkpoint before", error)
    if found:
        raise CheckpointError(f"{root}: none of the {len(found)} checkpoints is intact")
    return None


def prune(saved, keep):
    """Delete the checkpoints before the one that was just saved, but for the newest keep - 1 of them.

    Those behind it stay: a run that fell back is before checkpoints that are damaged, and they must not count.
    Each is renamed first, so that none is ever half there under its name.
    """
    for path in sorted(path for path in saved.parent.glob("checkpoint-*") if path.name <= saved.name)[:-keep]:
        doomed = path.with_name(f".old-{path.name}")
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def sweep(root):
    """Delete what an interrupted save, prune or write of a file left. Returns how many there were."""
    left = [path for pattern in (".tmp-*", ".old-*") for path in Path(root).glob(pattern)]
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(left)
