"""README's tables are those of the result files."""

import importlib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_readme_has_the_tables_of_the_result_files(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    tables = importlib.import_module("benchmarks.tables")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.filled(text) == text, "run python -m benchmarks.tables"
    for name in tables.TABLES:
        assert f"<!-- {name} -->" in text
    changed = text.replace("| cifar10 |", "| cifar10 | 1", 1)
    assert changed != text and tables.filled(changed) == text
