"""In CI a skipped test has failed, however it was skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SKIPPED_BY_MARK = "import pytest\n@pytest.mark.skip(reason='why')\ndef test(): pass\n"
SKIPPED_IN_BODY = "import pytest\ndef test(): pytest.skip('why')\n"
SKIPPED_AS_A_FILE = "import pytest\npytest.importorskip('no_such_module')\ndef test(): pass\n"
EXPECTED_TO_FAIL = "import pytest\n@pytest.mark.xfail\ndef test(): assert 0\n"
PASSES = "def test(): pass\n"


def run(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "llambo9p_tools.no_skips", "-c", "/dev/null"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


@pytest.mark.parametrize("text", [SKIPPED_BY_MARK, SKIPPED_IN_BODY, SKIPPED_AS_A_FILE])
def test_skipped(tmp_path, text):
    done = run(tmp_path, text)
    assert done.returncode in (1, 2), done.stdout
    assert "was skipped" in done.stdout


@pytest.mark.parametrize("text", [EXPECTED_TO_FAIL, PASSES])
def test_not_skipped(tmp_path, text):
    done = run(tmp_path, text)
    assert done.returncode == 0, done.stdout
