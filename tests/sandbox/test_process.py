"""A child process goes beyond its limits, dies, and is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llambo9p.engine.sandbox.limits import Limits
from llambo9p.engine.sandbox.process import ChildProcess
from llambo9p.errors import InvalidArgument

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
HELLO = {"template": "hello {{ x }}", "messages": [], "variables": {"x": "you"}}


@pytest.fixture
def child():
    child = ChildProcess(Limits(cpu=0.5, wall=10, memory=512 << 20))
    yield child
    child.close()


def render(child, template, messages=()):
    return child.do("render", template=template, messages=list(messages), variables={})


def is_well(child):
    return child.do("render", **HELLO) == "hello you"


def test_a_job_is_done(child):
    assert is_well(child)
    assert is_well(child)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (ENDLESS, "more than 0.5 s of CPU time"),
        ("{{ 'a' * 10**10 }}", "memory"),
        ("{{ ('a' * 10**8) * 2 }}{{ [('a' * 10**8)] * 3 }}", "memory|CPU time"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "nested too deeply"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ raise_exception('no system role') }}", "^no system role$"),
        ("{{ nothing.at.all }}", "undefined"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|undefined"),
    ],
)
def test_a_template_that_goes_beyond_its_limits_is_an_error_and_the_next_job_is_done(
    child, template, why
):
    with pytest.raises(InvalidArgument, match=why):
        render(child, template)
    assert is_well(child)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_child_that_dies_between_two_jobs_is_replaced(child, end):
    assert is_well(child)
    before = child.pid
    os.kill(before, end)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    assert is_well(child)
    assert child.pid != before


def test_a_child_that_dies_in_a_job_is_an_error_of_the_job(child):
    assert is_well(child)
    killing = threading.Timer(0.1, os.kill, (child.pid, signal.SIGSEGV))
    killing.start()
    with pytest.raises(InvalidArgument, match="nested too deeply|CPU time"):
        render(child, ENDLESS)
    killing.join()
    assert is_well(child)


def test_a_child_that_stands_still_is_ended():
    child = ChildProcess(Limits(wall=3))
    try:
        assert is_well(child)
        os.kill(child.pid, signal.SIGSTOP)
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)
        with pytest.raises(InvalidArgument, match="takes more than 3 s"):
            child.do("render", **HELLO)
        assert is_well(child)
    finally:
        child.close()


def test_megabytes_go_in_and_come_out(child):
    text = "é\n" * 2_000_000
    assert render(child, "{{ messages[0] }}", [text]) == text


@pytest.mark.parametrize("module", ["llambo9p.cluster.namespace", "llambo9p.engine.thread"])
def test_a_parent_does_not_load_what_its_children_work_with(module):
    program = f"import sys, {module}; print({{'llguidance', 'jinja2'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
