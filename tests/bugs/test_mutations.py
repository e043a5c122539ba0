"""Each test against one of the thirty bugs fails when the program has that bug.

Each mutation is put into a copy of the program, where only its test runs; the working
tree is never touched.  The test must fail by what it sees or by its time limit.  An
error that says that the mutated line is no program any more proves nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from .mutations import MUTATIONS
from .test_thirty import ROOT, replaced
from .thirty import Mutation

TIMEOUT_S = 5
"""for a test that the mutation makes wait for ever"""
NO_PROGRAM = re.compile(
    r"\b(SyntaxError|ImportError|ModuleNotFoundError|NameError|UnboundLocalError|TypeError"
    r"|AttributeError)\b"
)

pytestmark = pytest.mark.slow

UNMUTATED_S = 60
HANGING_S = 3 * TIMEOUT_S
"""for a mutated one that hangs in spite of its limit: that is an exception, and what hangs
may be the cleaning up after it"""


class Copy:
    """The program and its tests, elsewhere."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("llambo9p", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, directory / name, ignore=ignored)
        shutil.copy(ROOT / "setup.cfg", directory)
        # a mutation is not told by its file's size and its second
        compiling = ["compileall", "-q", "--invalidation-mode", "checked-hash", "llambo9p"]
        subprocess.run([sys.executable, "-m", *compiling], cwd=directory, check=True)

    def failures(self, tests: Iterable[str], limit: float, *options: str) -> list[str]:
        """Run them; the message of each that failed."""
        report = self.directory / "report.xml"
        report.unlink(missing_ok=True)
        own_first = os.pathsep.join([str(self.directory), os.environ.get("PYTHONPATH", "")])
        try:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                    *("-p", "pytest_timeout", "--junitxml", str(report), *options, *tests),
                ],
                cwd=self.directory,
                # plugins that happen to be installed would take most of the time
                env={**os.environ, "PYTHONPATH": own_first, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                capture_output=True,
                text=True,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            return [f"more than {limit:g} s"]
        assert done.returncode in (0, 1), done.stdout + done.stderr
        found = ElementTree.parse(report).iterfind(".//testcase/*")
        return [child.get("message", "") for child in found if child.tag in ("failure", "error")]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("mutated") / "copy")


def test_without_a_mutation_they_pass(copy: Copy) -> None:
    assert copy.failures({mutation.test for mutation in MUTATIONS}, UNMUTATED_S) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.bug}: {m.why}")
def test_a_mutation_is_found(copy: Copy, mutation: Mutation) -> None:
    path = copy.directory / mutation.file
    before = path.read_text()
    path.write_text(replaced(before, mutation))
    try:
        failures = copy.failures([mutation.test], HANGING_S, "-x", "--timeout", str(TIMEOUT_S))
    finally:
        path.write_text(before)
    assert failures, "the test passes in spite of it"
    assert not NO_PROGRAM.search(failures[0]), failures[0]
