"""`each`: its branches run at the same time, and what they say comes in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .harness import Scripts, Workers

COUNT = 12


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(COUNT)
    yield made
    made.close()


@pytest.fixture
def scripts(workers: Workers, capfd: pytest.CaptureFixture[str]) -> Scripts:
    return Scripts(workers.address, capfd)


def answers(count):
    for number in range(count):
        yield f"worker-{number:04d}: answer {number}"
        yield f"worker-{number:04d}: of two lines"


def test_all_prompts_are_under_way_at_once(workers, scripts):
    """Nobody answers before all were asked, and then the last one first."""
    said = scripts.out("each worker-* { echo you are $it > prompt; cat out }")
    assert said.splitlines() == [*answers(COUNT)]
    asked = [prompt.submitted for prompt in workers.prompts]
    assert asked == [[f"you are worker-{number:04d}\n".encode()] for number in range(COUNT)]


def test_what_it_says_can_go_on(scripts):
    script = "each worker-* { echo $it > prompt; cat out } | tail -n 3 | ! sed 's/.*: //'"
    assert scripts.out(script) == "of two lines\nanswer 11\nof two lines\n"


def test_a_branch_is_in_its_directory_with_variables_of_its_own(scripts):
    script = "x=0; each worker-000[01] { pwd; x=$x$it; echo $x }; pwd; echo $x"
    assert scripts.out(script).splitlines() == [
        "worker-0000: /worker-0000",
        "worker-0000: 0worker-0000",
        "worker-0001: /worker-0001",
        "worker-0001: 0worker-0001",
        *("/", "0"),
    ]


def test_what_is_no_directory_is_a_word(scripts):
    assert scripts.out("each one 'and two' status { pwd; echo $it }").splitlines() == [
        *("one: /", "one: one"),
        *("and two: /", "and two: and two"),
        *("status: /", "status: status"),
    ]


def test_without_words_it_takes_lines(scripts):
    assert scripts.out("! printf 'a b\nc' | each { echo -n $it } > /worker-0000/prompt") == ""
    assert scripts.out("! printf 'a b\n\nc' | each { echo $it$it }") == "a b: a ba b\nc: cc\n"
    assert scripts.out("! true | each { echo }") == ""


def test_each_inside_each(scripts):
    said = scripts.out("each worker-0000 worker-0001 { each a b { pwd } }")
    assert said.splitlines() == [
        f"worker-000{number}: {word}: /worker-000{number}" for number in (0, 1) for word in "ab"
    ]


def test_more_branches_than_run_at_once(scripts):
    said = scripts.out("! seq 100 | each { cat /status }")
    assert said.splitlines() == [f"{number}: workers {COUNT}" for number in range(1, 101)]


def test_one_that_fails_stops_no_other(capfd):
    workers = Workers(3, fails=True)
    try:
        scripts = Scripts(workers.address, capfd)
        script = "each worker-* { echo hi > prompt; cat out } || { why=$status; echo; echo $why }"
        *said, empty, why = scripts.out(script).splitlines()
        assert said == [*answers(2)] and not empty
        assert why == "1 of 3 failed: worker-0002: /worker-0002/out: worker is lost"
    finally:
        workers.close()


def test_an_exit_ends_all(scripts):
    assert scripts.error("each a { exit 4 }; echo not reached") == "exit 4"


def test_parallel_branches_write_one_file_whole(workers, scripts):
    assert scripts.out("each a b c { echo $it; echo $it } > worker-0003/prompt") == ""
    assert workers.prompts[3].submitted == [b"a: a\na: a\nb: b\nb: b\nc: c\nc: c\n"]
    assert "of 3 failed" in scripts.error("each a b nowhere/x { cat $it } > worker-0003/prompt")
    assert len(workers.prompts[3].submitted) == 1
