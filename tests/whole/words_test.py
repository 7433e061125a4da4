"""Docstrings are plain English: they say what code does, not "What code does"."""

import ast

import pytest
from repository import ROOT

FOLDERS = ("data_prep", "keras_alexnet", "benchmarks", "tests")
DIALECT = ("What", "Whether", "Of", "How", "Which")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_docstring_begins_with_a_clause(folder):
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                words = (ast.get_docstring(node) or "-").split()
                if words[0] in DIALECT:
                    found.append(f"{path.relative_to(ROOT)}: {' '.join(words[:9])}")
    assert found == []
