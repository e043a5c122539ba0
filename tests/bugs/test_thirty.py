"""All thirty bugs have a test that bears their number, and a mutation that it finds.

Owns what a test run always checks of that: which tests there are is read from their
sources, and the mutations are looked up in the program.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from .mutations import MUTATIONS
from .thirty import THIRTY, Mutation

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"^(?:async )?def (test_((?:\d+_)*)\w+)\(", re.MULTILINE)


def replaced(source: str, mutation: Mutation) -> str:
    """The source with the mutated line."""
    line = re.compile(rf"^( *){re.escape(mutation.line)}$", re.MULTILINE)
    found = len(line.findall(source))
    assert found == 1, f"{mutation.file} has {found} times the line {mutation.line!r}"
    return line.sub(lambda match: match[1] + mutation.mutated, source)


def numbered() -> dict[int, set[str]]:
    """Bug -> the tests that bear its number."""
    tests = defaultdict(set)
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name, numbers in NAME.findall(path.read_text()):
            for number in filter(None, numbers.split("_")):
                tests[int(number)].add(f"{path.relative_to(ROOT)}::{name}")
    return tests


def test_every_bug_has_a_test_that_bears_its_number() -> None:
    assert sorted(THIRTY) == list(range(1, 31))
    assert set(numbered()) == set(THIRTY)


def test_every_bug_has_a_mutation() -> None:
    assert {mutation.bug for mutation in MUTATIONS} == set(THIRTY)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.bug}: {m.why}")
def test_a_mutation_is_of_a_line_that_is_there_for_a_test_of_its_bug(mutation: Mutation) -> None:
    replaced((ROOT / mutation.file).read_text(), mutation)
    assert mutation.test in numbered()[mutation.bug]
