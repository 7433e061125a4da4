"""The depth of imports between files, and that none go in a circle."""

import functools

import grimp
import pytest

# Floors of imports: a file that imports none of ours is on the first. At e3892f8 there were 16.
MOST_FLOORS = 11


@pytest.fixture(scope="module")
def imports():
    graph = grimp.build_graph("data_prep", "keras_alexnet", cache_dir=None)
    return {
        module: graph.find_modules_directly_imported_by(module) - {module}
        for module in graph.modules
    }


def test_no_file_imports_itself_by_others(imports):
    @functools.cache
    def reached(module):
        seen, ahead = set(), list(imports[module])
        while ahead:
            if (found := ahead.pop()) not in seen:
                seen.add(found)
                ahead.extend(imports[found])
        return frozenset(seen)

    assert not {module for module in imports if module in reached(module)}


def test_floors(imports):
    @functools.cache
    def floor(module):
        return 1 + max(map(floor, imports[module]), default=0)

    assert max(map(floor, imports)) <= MOST_FLOORS
