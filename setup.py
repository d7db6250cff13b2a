"""Lists the packages, so that a new sub-package of src/ or configs/ is never left out of the wheel."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

FOLDERS = {"eigenzoo": "src", "eigenzoo.configs": "configs"}
packages = [f"{name}.{p}" for name, folder in FOLDERS.items() for p in find_namespace_packages(folder)]
records = ["eigenzoo.results"] if any(Path("results").glob("*.jsonl")) else []
setup(packages=[*FOLDERS, *records, *packages])
