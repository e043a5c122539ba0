"""^C while a call of 9P waits: whichever thread the kernel gives it to."""

from __future__ import annotations

import signal
import threading

import click
import pytest
from llambo9p_tools.calls import apart


@pytest.fixture(autouse=True)
def heard() -> object:
    """As at a terminal, whatever started the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1
    signal.signal(signal.SIGINT, before)


def interrupt_this_thread() -> None:
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


def test_what_it_returns_or_raises() -> None:
    assert apart(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        apart(lambda: 1 // 0)


def test_every_interrupt_is_told_even_one_of_another_thread() -> None:
    told = [threading.Event(), threading.Event()]

    def call() -> int:
        for event in told:
            interrupt_this_thread()
            assert event.wait(10)
        return 7

    assert apart(call, lambda number: told[number - 1].set()) == 7


def test_without_anything_to_interrupt_the_call_is_left_behind() -> None:
    never = threading.Event()

    def call() -> None:
        interrupt_this_thread()
        never.wait()

    with pytest.raises(click.Abort):
        apart(call)
    never.set()


def test_one_who_ignores_interrupts_goes_on_doing_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def call() -> int:
        interrupt_this_thread()
        return 7

    assert apart(call) == 7
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN
