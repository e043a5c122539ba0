"""What the benches compute from times; that they run is test_readme.py's."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys

import pytest
from llambo9p_tools.bench import fusion, processes
from llambo9p_tools.bench.latency import stall_figures
from llambo9p_tools.bench.turns import Answer, Question, check, percentile, ratio
from llambo9p_tools.bench.workers import overtaken

from llambo9p import InferenceResponse, Usage


def test_percentile_is_a_value_that_so_many_do_not_exceed() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile(values[:16], 99) == 100


def test_ratio_is_of_each_round() -> None:
    assert ratio({"a": [1.0, 20.0, 300.0], "b": [1.0, 10.0, 100.0]}, "a", "b") == 2


def test_a_short_answer_is_no_measurement() -> None:
    with pytest.raises(SystemExit, match="2 tokens"):
        check([Question("one", 3)], [Answer(0.0, tokens=2)])


def test_overtaken_counts_who_came_later_and_was_first() -> None:
    asked_first = Answer(0.0, arrivals=[5.0])
    assert overtaken([asked_first, Answer(1.0, arrivals=[4.0]), Answer(2.0, arrivals=[3.0])]) == 2
    assert overtaken([asked_first, Answer(1.0, arrivals=[6.0])]) == 0


def test_the_stall_is_while_the_long_prompt_is_read() -> None:
    running = Answer(0.0, 9.0, [1.0, 2.0, 4.0, 7.0, 8.0, 8.5])
    figures = stall_figures([running, Answer(2.5, 7.5, [7.5])])
    assert figures["gap max"] == 3000
    assert figures["gap p50"] == 2000  # of 2, 3 and 1 s
    assert figures["long first"] == 5000
    with pytest.raises(SystemExit, match="--running"):
        stall_figures([Answer(0.0, 7.0, [1.0, 7.0]), Answer(2.5, 7.5, [7.5])])


def test_questions_come_from_the_seed_and_their_answers_are_right() -> None:
    tasks = [make(random.Random(3)) for make in fusion.TASKS.values() for _ in range(2)]
    assert tasks[0] == tasks[1] and tasks[2] == tasks[3]
    for seed in range(20):
        a, b = map(int, re.findall(r"\d+", fusion.adding(random.Random(seed)).text))
        assert fusion.adding(random.Random(seed)).right == str(a + b)
        a, b = map(int, re.findall(r"\d+", fusion.taking_away(random.Random(seed)).text))
        assert fusion.taking_away(random.Random(seed)).right == str(a - b)
        a, b = map(int, re.findall(r"\d+", fusion.comparing(random.Random(seed)).text))
        assert fusion.comparing(random.Random(seed)).right == ("yes" if a > b else "no")


def test_an_answer_is_right_when_the_right_one_is_read_from_it() -> None:
    tasks = [fusion.Task("?", "7"), fusion.Task("?", "yes")]
    assert fusion.percent(["3 + 4 = 7", "No."], tasks) == 50
    said = [InferenceResponse(text, [], Usage(), -1.0) for text in ("6.9", "7", "and so on")]
    assert fusion.fused_text(said, "weighted-average") == "7"
    assert fusion.fused_text(said[2:], "weighted-average") == ""


def test_what_linux_says_of_a_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in processes.children(os.getpid())
        assert processes.memory(child.pid) > 0
        child.communicate(b"\n")
    assert child.pid not in processes.children(os.getpid())
    before = processes.cpu(os.getpid())
    sum(range(10**6))
    assert processes.cpu(os.getpid()).main > before.main


def test_a_bench_that_fails_ends() -> None:
    """And does not wait for contenders that wait for it."""
    script = (
        "from contextlib import nullcontext\n"
        "from llambo9p_tools.bench.turns import Contender\n"
        "contender = Contender(nullcontext, len)\n"
        "raise SystemExit(3)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=15).returncode == 3
