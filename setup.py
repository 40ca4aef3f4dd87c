"""Packages of the wheel; everything else about the project is in pyproject.toml. Building needs no torch and no compiler."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGES = find_packages(include=["ddgan_fast", "ddgan_fast.*"])
# ddgan_fast/kernels is a link to kernels/; where links become text files (Windows, zip) the folder itself is packed
LINKED = (ROOT / "ddgan_fast/kernels").is_dir()

setup(
    version=re.search(r'__version__ = "(.+?)"', (ROOT / "ddgan_fast/__init__.py").read_text())[1],
    packages=sorted({*PACKAGES, "ddgan_fast.kernels"}),
    package_dir={} if LINKED else {"ddgan_fast": "ddgan_fast", "ddgan_fast.kernels": "kernels"},
)
