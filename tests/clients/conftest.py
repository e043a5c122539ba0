"""What the tests with the Linux guest share: one boot, one cluster, a mount for each
dialect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .guest import Guest
from .initramfs import Unavailable, boot_files
from .mounted import DIALECTS, Foreground, Mount
from .served import Served, served


@pytest.fixture(scope="package")
def cluster() -> Iterator[Served]:
    with served() as cluster:
        yield cluster


@pytest.fixture(scope="package")
def guest(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    assert pytestconfig.cache is not None
    try:
        boot = boot_files(Path(pytestconfig.cache.mkdir("guest")))
        guest = Guest(boot, tmp_path_factory.mktemp("guest"))
    except Unavailable as e:
        pytest.skip(str(e))
    yield guest
    guest.close()


@pytest.fixture(scope="module", params=DIALECTS)
def mount(request: pytest.FixtureRequest, guest: Guest, cluster: Served) -> Iterator[Mount]:
    mount = Mount(guest, request.param, cluster.door())
    yield mount
    mount.unmount()


@pytest.fixture
def foreground(guest: Guest, cluster: Served) -> Iterator[Foreground]:
    foreground = Foreground(guest)
    yield foreground
    foreground.end()
    cluster.settle()
