"""Claims of docs/ and README about the code still hold."""

import ast
import re

from repository import ROOT


def names_of(path):
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_the_walks_pass_functions_that_exist():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    steps = re.findall(r"`([\w/]+\.py):(\w+)`", text)
    assert len(steps) > 30
    assert [step for step in steps if step[1] not in names_of(step[0])] == []


def test_readme_names_files_that_exist():
    folders = "tests|data_prep|keras_alexnet|benchmarks|configs|docs"
    paths = re.findall(rf"\b((?:{folders})/[\w/]+\.\w+)", (ROOT / "README.md").read_text("utf-8"))
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []
