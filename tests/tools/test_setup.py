"""setup.sh with a Python that only pretends to install: what it is asked for, and when."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PYTHON = """#!/bin/bash
case "$*" in
    "-m pip --version") ;;
    "-m pip install "*)
        echo "$CMAKE_ARGS" >>"$CALLS"
        echo "${@: -1}" >>"$CALLS"
        echo "  [1/20] /usr/bin/c++ -c a.cpp"
        echo "  [19/20] /usr/bin/c++ -c b.cpp"
        exit "${PIP_FAILS:-0}"
        ;;
    *) exit 1 ;;
esac
"""


class Setup:
    def __init__(self, directory: Path) -> None:
        self.calls = directory / "calls"
        self.venv = directory / "a venv"
        python = self.venv / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(PYTHON)
        python.chmod(0o755)

    def __call__(self, extras: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`setup EXTRAS`; the lines that pip got are in `calls`."""
        self.calls.write_text("")
        own = {"LLAMBO_VENV": str(self.venv), "CALLS": str(self.calls), "CMAKE_ARGS": ""}
        source = shlex.quote(f"{ROOT}/tools/setup.sh")
        script = f"set -euo pipefail; source {source}; setup {extras}"
        return subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, **own, **env}
        )

    def installed(self) -> list[str]:
        return self.calls.read_text().splitlines()[1::2]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_it_installs_once(setup):
    assert setup("model").returncode == 0
    assert setup.installed() == [f"{ROOT}[model]"]
    assert setup("model").returncode == 0
    assert setup.installed() == []


def test_an_environment_for_tests_serves_quickstart_too(setup):
    setup("model")
    setup("model,test")
    assert setup.installed() == [f"{ROOT}[model,test]"]
    setup("model")
    assert setup.installed() == []


def test_a_failure_is_told_and_tried_again(setup):
    done = setup("model", PIP_FAILS="1")
    assert done.returncode == 1
    assert f"the installation failed; all of it is in {setup.venv}/install.log" in done.stderr
    setup("model")
    assert setup.installed() == [f"{ROOT}[model]"]


def test_the_user_s_cmake_arguments_come_last(setup):
    setup("model", CMAKE_ARGS="-DGGML_CUDA=ON -DGGML_NATIVE=OFF")
    args = shlex.split(setup.calls.read_text().splitlines()[0])
    assert args[-2:] == ["-DGGML_CUDA=ON", "-DGGML_NATIVE=OFF"]
    include = f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={ROOT}/tools/llama_cpp.cmake"
    assert include in args and "-DLLAVA_BUILD=OFF" in args


def test_progress_off_a_terminal_is_a_line_now_and_then(setup):
    said = setup("model").stderr
    assert "takes minutes" in said
    assert "  compiling llama.cpp: 0% (0:0" in said and "  compiling llama.cpp: 90% (0:0" in said
    assert "\r" not in said


class TestBareMachine:
    """One with nothing on it, and an apt-get that only takes notes."""

    ESSENTIAL = ("bash", "dirname", "cat", "cksum", "tee", "grep", "nproc")

    def run(
        self, directory: Path, command: str, uid: int, apt_get: str = "", dpkg_query: str = "exit 1"
    ) -> subprocess.CompletedProcess[str]:
        bin_path = directory / "bin"
        bin_path.mkdir()
        for name in self.ESSENTIAL:
            found = shutil.which(name)
            assert found is not None
            (bin_path / name).symlink_to(found)
        programs = {
            "id": f"echo {uid}",
            "apt-get": f'echo "apt-get $*" >&2\n{apt_get}',
            "dpkg-query": dpkg_query,
        }
        for name, text in programs.items():
            (bin_path / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
            (bin_path / name).chmod(0o755)
        source = shlex.quote(f"{ROOT}/tools/setup.sh")
        env = {"PATH": str(bin_path), "LLAMBO_VENV": str(directory / "venv")}
        return subprocess.run(
            [bin_path / "bash", "-c", f"set -euo pipefail; source {source}; {command}"],
            capture_output=True, text=True, env=env,
        )  # fmt: skip

    NEEDED = "python3 python3-venv g++ cmake ninja-build"
    INSTALL = "apt-get -qq install -y --no-install-recommends"

    def test_root_has_it_installed(self, tmp_path):
        said = self.run(tmp_path, "setup model", 0).stderr
        assert f"{self.INSTALL} {self.NEEDED}\n" in said

    def test_others_are_told_what_to_install(self, tmp_path):
        done = self.run(tmp_path, "setup model", 1000)
        assert done.returncode == 1
        assert done.stderr.endswith(f"on Debian: sudo apt-get install {self.NEEDED}\n")

    def test_root_has_the_clients_of_tests_installed(self, tmp_path):
        said = self.run(tmp_path, "setup_clients", 0).stderr.splitlines()
        assert said[1:] == ["apt-get -qq update", f"{self.INSTALL} {self.clients()}"]

    @pytest.mark.parametrize(("uid", "apt_get"), [(1000, ""), (0, "exit 100")])
    def test_clients_that_cannot_be_installed_are_named(self, tmp_path, uid, apt_get):
        done = self.run(tmp_path, "setup_clients", uid, apt_get)
        assert done.returncode == 0
        assert done.stderr.endswith(f"going on; tests that need {self.clients()} are skipped\n")

    def test_clients_that_are_there_are_left_alone(self, tmp_path):
        done = self.run(tmp_path, "setup_clients", 0, dpkg_query="echo installed")
        assert (done.returncode, done.stderr) == (0, "")

    def clients(self) -> str:
        words = (ROOT / "tools/setup.sh").read_text().partition("\nclient_packages=(")[2]
        return words.partition(")")[0]


@pytest.mark.parametrize("args", [["--kep"], ["one", "two"]])
def test_quickstart_refuses_what_it_does_not_know(args):
    done = subprocess.run([ROOT / "tools/quickstart", *args], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: tools/quickstart")
