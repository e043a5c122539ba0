"""`top` without a terminal or a cluster: what it makes of three files, and how it draws that."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llambo9p_tools.failure import Failure
from llambo9p_tools.top import sample
from llambo9p_tools.top.keyboard import names
from llambo9p_tools.top.sample import Meter, Sample
from llambo9p_tools.top.screen import ORDERS, Picture, Screen, View, duration, event, sparkline
from llambo9p_tools.workers import Worker

from llambo9p.fs.ctl import quote

STATUS = "state idle\nhealthy {healthy}\nlost 0\nstrategy random\nrequests 5\nwaiting 2\n"
METRICS = """{"a": {"samples": [
  {"name": "llambo_requests_total", "labels": {"outcome": "stop"}, "value": 4.0},
  {"name": "llambo_requests_total", "labels": {"outcome": "failed"}, "value": 1.0},
  {"name": "x_bucket", "labels": {"le": "+Inf"}, "value": 1.0},
  {"name": "llambo_time_to_first_token_seconds_sum", "labels": {}, "value": 2.5},
  {"name": "llambo_time_to_first_token_seconds_count", "labels": {}, "value": 5},
  {"name": "process_start_time_seconds", "labels": {}, "value": 1000.0}]}}"""


def line(number: int, tokens: int = 0, heartbeat: float = 0.0, load: int = 0, **more: str) -> str:
    words = {"host": "host-0000", "epoch": "1", "type": "tiny", "addr": "a", "model": "m", **more}
    return (
        f"worker-{number:04d} idle {load} 0 7 {tokens} 0 healthy closed 4 {words['host']} "
        f"{words['epoch']} {heartbeat} {quote(words['type'])} {quote(words['addr'])} "
        f"{quote(words['model'])}\n"
    )


def sampled(table: str, now: float = 1100.0) -> Sample:
    return sample.parse(STATUS.format(healthy=table.count("\n")), table, METRICS, now)


# -- what the files say -------------------------------------------------------------


def test_a_sample_is_what_three_files_say() -> None:
    now = sampled(line(0) + line(1, load=3, addr="unix!/two words", model="it's", host="-"))
    assert (now.active, now.waiting, now.done, now.failed) == (3, 2, 5, 1)
    assert (now.strategy, now.state, now.started) == ("random", "healthy", 1000.0)
    assert now.first_token == (2.5, 5)
    worker = now.workers[1]
    assert (worker.addr, worker.model) == ("unix!/two words", "it's")
    assert (now.workers[0].does, worker.does) == ("idle", "decode")
    hosts = Meter().load(now).hosts
    assert [(h.name, h.busy, h.slots) for h in hosts] == [
        ("unix!/two words", 3, 4), ("host-0000", 0, 4),
    ]  # fmt: skip


def test_of_nothing_there_is_nothing() -> None:
    """As under --explain."""
    now = sample.parse("", "", "", 0.0)
    assert (now.state, Meter().load(now).tokens_per_second) == ("no workers", 0.0)


@pytest.mark.parametrize(
    ("status", "table", "metrics"),
    [("healthy many\n", "", ""), ("", "worker-0000 idle 0 0 0 0 0\n", ""), ("", "", "[]")],
)
def test_what_is_no_orchestrator_is_told(status: str, table: str, metrics: str) -> None:
    with pytest.raises(Failure):
        sample.parse(status, table, metrics, 0.0)


def test_rates_are_between_heartbeats_and_not_between_looks() -> None:
    meter = Meter()

    def rate(tokens: int, heartbeat: float, now: float, epoch: str = "1") -> float:
        load = meter.load(sampled(line(0, tokens, heartbeat, epoch=epoch), now))
        return load.rates["worker-0000"]

    assert rate(100, 10.0, 10.5) == 0.0
    assert rate(150, 11.0, 11.5) == 50.0
    assert rate(150, 11.0, 12.0) == 50.0, "there was no heartbeat since"
    assert rate(170, 13.0, 13.5) == 10.0
    assert rate(170, 13.0, 30.0) == 0.0, "nor will there be one"
    assert rate(5, 31.0, 31.0, epoch="2") == 0.0, "another process"
    assert rate(6, 32.0, 32.0, epoch="2") == 1.0


# -- how it is drawn ----------------------------------------------------------------


def picture(count: int, trouble: str = "") -> Picture:
    meter = Meter()
    meter.load(sampled("".join(line(n, 0, 1.0) for n in range(count))))
    load = meter.load(
        sampled(
            "".join(
                line(n, n * 10, 2.0, n % 5, addr=f"a{n // 4}", host=f"host-{n // 4 * 4:04d}")
                for n in range(count)
            )
        )
    )
    events = [{"seq": 1, "time": 1.0, "kind": "worker.lost", "worker": "w" * 200}]
    return Picture("tcp!127.0.0.1!5640", load, [1.0, 5.0] * 200, events, trouble)


@given(st.integers(1, 300), st.integers(1, 100), st.integers(0, 30), st.booleans())
def test_it_fits_every_terminal(width: int, height: int, count: int, ascii: bool) -> None:
    drawn = Screen(width, height, ascii).draw(picture(count), View(top=10))
    lines = drawn.split("\n")
    assert len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    assert not ascii or drawn.plain.isascii()


def test_what_is_most_important_is_there_in_60_columns() -> None:
    text = Screen(60, 20).draw(picture(12), View()).plain
    for words in ("tcp!127.0.0.1!5640  healthy  random  up 1m 40s", "12 healthy", "3 active",
                  "Tokens/s  660.0", "host-0000", "WORKER       STATE    LOAD", "1-"):  # fmt: skip
        assert words in text
    assert "MODEL" in Screen(140, 20).draw(picture(12), View()).plain


def test_the_busiest_workers_are_first_and_the_others_are_scrolled_to() -> None:
    view, screen = View(), Screen(80, 24)

    def shown() -> list[str]:
        lines = screen.draw(picture(30), view).plain.splitlines()
        return [line.split()[0] for line in lines if line.startswith("worker-")]

    first = shown()
    assert first[:2] == ["worker-0029", "worker-0024"], "the same load, and more tokens"
    view.press("pgdn")
    assert not set(shown()) & set(first)
    view.press("end")
    last = shown()
    view.press("down")
    assert shown() == last and len(last) == len(first)
    view.press("home")
    assert shown() == first
    while view.order != "name":
        view.press("s")
    assert shown()[:2] == ["worker-0000", "worker-0001"]


@given(st.sampled_from(list(ORDERS)))
def test_every_order_has_all_workers(order: str) -> None:
    text = Screen(80, 60).draw(picture(20), View(order)).plain
    assert all(f"worker-{n:04d}" in text for n in range(20))


def test_trouble_is_told_instead_of_the_state() -> None:
    trouble = "no cluster answers at tcp!127.0.0.1!5640: refused. Start one with `llamboctl init`"
    first, *rest = Screen(80, 24).draw(picture(3, trouble), View()).plain.splitlines()
    assert first == "no cluster answers at tcp!127.0.0.1!5640: refused"
    assert any("worker-0000" in line for line in rest), "what was known last"


def test_without_workers_it_says_how_to_get_some() -> None:
    assert "llamboctl spawn" in Screen(80, 24).draw(picture(0), View()).plain


def test_a_sparkline_is_against_the_highest_and_ends_with_the_newest() -> None:
    assert sparkline([0, 4, 8], 10) == "▁▄█"
    assert sparkline([8, 0, 4, 8], 2) == "▄█"
    assert sparkline([1, 9], 10, ascii=True) == ".@"
    assert sparkline([0, 0], 10) == "▁▁"
    assert sparkline([], 10) == sparkline([1], 0) == ""


def test_durations_have_their_two_greatest_units() -> None:
    shown = [duration(s) for s in (0, 59.9, 60, 3700, 90_000)]
    assert shown == ["0s", "59s", "1m 0s", "1h 1m", "1d 1h"]


def test_an_event_does_nothing_to_a_terminal() -> None:
    text = event({"seq": 1, "kind": "request.failed", "error": "\x1b[2J", "epoch": 3})
    assert text.plain.strip() == "request.failed error=\ufffd[2J"


def test_keys_have_names() -> None:
    assert names(b"qs\x1b[A\x1b[B\x1b[6~") == ["q", "s", "up", "down", "pgdn"]
    assert names(b"a\x1b[99~q") == ["a"], "a sequence that nobody knows"


def test_a_worker_that_somebody_has_asked_otherwise_is_not_idle() -> None:
    [worker] = sampled(line(0, load=2)).workers
    assert isinstance(worker, Worker)
    assert [replace(worker, queued=n).does for n in (0, 1, 2)] == ["decode", "decode", "queued"]
    assert replace(worker, state="draining").does == "draining"
