"""The folder of an engine: its files, and manifest.json, which is checked before any of them is used (design.md section 6)."""

from pathlib import Path

from ddgan_fast.checkpoint.folder import MANIFEST, read_json, sha256, write_folder, write_json
from ddgan_fast.config import FORMAT_VERSION
from ddgan_fast.errors import CheckpointError, InputError

FILES = {"onnx": "model.onnx", "tensorrt": "model.plan", "torch-tensorrt": "model.pt2", "pt2": "model.pt2"}
REPOSITORY = "triton-repo"


def check_target(out):
    """Raise InputError unless an engine may be written to `out`: it is new, an empty folder, or an older engine."""
    out = Path(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        older = read_json(out / MANIFEST).get("format") in (*FILES, REPOSITORY)
    except CheckpointError:
        older = False
    if not older:
        raise InputError(f"{out}: exists and is no engine of ddgan export; give a new or empty folder")


def write_engine(out, fill):
    """Write the folder of an engine and return its manifest; an older engine there is replaced, on an error nothing of the new one stays.

    fill: (folder) -> JSON object, writes the files and returns what the manifest says of them; their SHA-256 are added.
    """
    check_target(out)

    def write(folder):
        facts = fill(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        hashes = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
        write_json(folder / MANIFEST, {"format_version": FORMAT_VERSION, **facts, "sha256": hashes})

    write_folder(out, write)
    return read_json(Path(out) / MANIFEST)


def read_engine(folder):
    """(file of the engine, its manifest), the file's hash checked.

    Raises CheckpointError where `folder` is no engine of ddgan export, or the file is not the one that was written.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder}: no {MANIFEST} in it; give the folder that ddgan export wrote")
    manifest = read_json(folder / MANIFEST)
    kind, hashes = manifest.get("format"), manifest.get("sha256")
    if kind == REPOSITORY:
        raise CheckpointError(f"{folder}: a model repository for NVIDIA Triton Inference Server; its README.md says how to serve it")
    if not isinstance(kind, str) or kind not in FILES or not isinstance(hashes, dict):
        raise CheckpointError(f"{folder / MANIFEST}: format {kind!r}; an engine of ddgan export has {', '.join(FILES)}")
    path = folder / FILES[kind]
    try:
        found = sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if found != hashes.get(path.name):
        text = f"its SHA-256 is {found[:12]}..., the manifest says {str(hashes.get(path.name))[:12]}..."
        raise CheckpointError(f"{path}: not the file that ddgan export wrote: {text}; it was not loaded; export again")
    return path, manifest
