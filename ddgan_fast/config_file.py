"""config.yaml: a flat mapping of setting to value, read with limits and written beside a run."""

import re
from pathlib import Path

import yaml

from ddgan_fast.config import checked, override, to_dict
from ddgan_fast.errors import InputError

MAX_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):
    """Plain values alone; 1e-4 is a number, as in YAML 1.2 (1.1 has it as text)."""


class _Dumper(yaml.SafeDumper):
    """Writes text that would be read as a number in quotes."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def read_yaml(path, config):
    """`config` with the settings of a YAML file. Raises InputError that names the file and the line of what is wrong."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than 1 MiB; not a config file")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=_Loader)):
            raise InputError(f"{path}: aliases (*name) are not read; write the values out")
        root = yaml.compose(text, Loader=_Loader)
        values = yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from error
    if values is None:
        return config
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a mapping, one 'setting: value' a line")
    lines = {key.value: key.start_mark.line + 1 for key, _ in root.value}
    for name, value in values.items():
        try:
            checked(name, value)
        except ValueError as error:
            raise InputError(f"{path}:{lines.get(str(name), 1)}: {error}") from error
    try:
        return override(config, values)  # all at once: settings are judged together
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def write_yaml(path, config):
    """Write all settings of `config`."""
    Path(path).write_text(yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, default_flow_style=None), encoding="utf-8")
