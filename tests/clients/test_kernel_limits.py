"""What Linux's v9fs is refused, and the begin and end of a mount, in its three dialects.
"""

from __future__ import annotations

from collections import Counter

import pytest

from llambo9p.fs.tree import Directory, TextFile, Tree
from llambo9p.p9 import messages as m

from .guest import Guest, Result
from .mounted import DIALECTS, Foreground, Mount
from .served import HELD, Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NO_PERMISSION = "Permission denied"
NOT_PERMITTED = "Operation not permitted"
NO_FILE = "No such file or directory"
NOT_A_DIRECTORY = "Not a directory"
INVALID = "Invalid argument"
UNKNOWN = "Unknown error 526"
"""what Linux makes of words that it does not know; only 9P2000 has nothing else"""


# -- refusing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("mkdir new", NO_PERMISSION),
        ("rmdir nodes", NO_PERMISSION),
        ("rm ctl", NO_PERMISSION),
        ("touch new", NO_PERMISSION),
        ("chmod 600 ctl", NO_PERMISSION),
        ("echo x >worker-0001/out", NO_PERMISSION),
        ("cat nope", NO_FILE),
        ("cat worker-0001/nope", NO_FILE),
        ("cat ctl/nope", NOT_A_DIRECTORY),
        ("mv ctl new", (NO_PERMISSION, NO_PERMISSION, NOT_PERMITTED)),
        ("ln -s ctl new", (NOT_PERMITTED, NO_PERMISSION, NOT_PERMITTED)),
        ("ln ctl new", (NOT_PERMITTED, NO_PERMISSION, NOT_PERMITTED)),
        ("mknod new p", (NOT_PERMITTED, NO_PERMISSION, NOT_PERMITTED)),
        ("echo nonsense >ctl", (UNKNOWN, INVALID, INVALID)),
        ("echo nonsense >worker-0001/ctl", (UNKNOWN, INVALID, INVALID)),
        ("cat data", (UNKNOWN, INVALID, INVALID)),
    ],
)
def test_what_is_refused_has_an_errno(
    mount: Mount, command: str, said: str | tuple[str, str, str]
) -> None:
    expected = said if isinstance(said, str) else said[DIALECTS.index(mount.dialect)]
    refused = mount.run(command)
    assert refused.status != 0
    assert refused.output.endswith(f": {expected}\n")


def test_why_an_answer_failed_is_in_status(mount: Mount) -> None:
    failed = mount.run("cd worker-0001; seq 1 20000 >prompt; cat out")
    expected = UNKNOWN if mount.dialect == "9p2000" else INVALID
    assert failed == Result(1, f"cat: read error: {expected}\n")
    assert "65536" in mount.sh("grep ^error worker-0001/status")


# -- mounting --------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_unmount_leaves_no_fid(guest: Guest, cluster: Served, dialect: str) -> None:
    mount = Mount(guest, dialect, cluster.door())
    mount.sh("ls -lR; cat status clone; echo Well? >prompt; cat out; ! cat nope; ! mkdir new")
    assert mount.door.fids
    mount.unmount()
    cluster.until(lambda: not mount.door.server.connections)
    assert mount.door.fids == set()
    assert mount.door.outstanding == {}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_worker_of_a_host_is_mounted_by_its_name(
    guest: Guest, cluster: Served, dialect: str
) -> None:
    mount = Mount(guest, dialect, cluster.door(cluster.free.host.attach), ",aname=worker-0001")
    assert mount.sh("grep worker status; echo Alone? >prompt; cat out; ls -d ../..") == (
        "worker worker-0001\nsimulated: Alone?../..\n"
    )
    mount.unmount()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_linux_itself_judges_by_the_bits_of_a_mode(
    guest: Guest, cluster: Served, dialect: str
) -> None:
    """Files belong to whoever runs the server; 9P2000 has names only, and Linux takes all
    of them for `dfltuid`."""
    mount = Mount(guest, dialect, cluster.door(), ",dfltuid=4321")
    ask = "su glenda -c 'echo Who am I? >prompt' && cat out"
    may_write = dialect == "9p2000"
    assert (mount.run(ask) == Result(0, "simulated: Who am I?")) == may_write
    query = "su glenda -c 'exec 3<>data; echo And now? >&3; cat <&3'"
    assert (mount.run(query) == Result(0, "simulated: And now?")) == may_write
    mount.unmount()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_lost_server_ends_what_waits_and_can_be_unmounted(
    guest: Guest, cluster: Served, foreground: Foreground, dialect: str
) -> None:
    mount = Mount(guest, dialect, cluster.door())
    mount.sh(f"echo Are you there? >{HELD}/prompt")
    foreground.start(mount, f"cat {HELD}/out")
    cluster.until(lambda: mount.door.waits(m.Tread))
    cluster.call(mount.door.server.close())
    assert foreground.finish() == Result(1, "cat: read error: Input/output error\n")
    assert mount.run("ls") == Result(1, "ls: .: Input/output error\n")
    mount.unmount()


# -- what a listing costs ----------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_ls_of_a_thousand_entries_costs_what_linux_asks_for(
    guest: Guest, cluster: Served, dialect: str
) -> None:
    """A walk, two stats and a clunk an entry, whatever the server does: v9fs takes nothing
    of a listing but the names."""
    tree = Tree()
    root = Directory(tree, "/")
    for number in range(1000):
        root.add(TextFile(tree, f"entry-{number:04d}", lambda: ""))
    mount = Mount(guest, dialect, cluster.door(lambda user, aname: root))
    mount.door.asked.clear()
    assert len(mount.sh("ls -l").splitlines()) == 1001
    asked = Counter(type(msg).__name__.removesuffix("_u") for msg in mount.door.asked)
    reads = asked.pop("Treaddir" if dialect == "9p2000.L" else "Tread")
    stat = "Tgetattr" if dialect == "9p2000.L" else "Tstat"
    assert {name: count // 1000 for name, count in asked.items() if count >= 1000} == {
        "Twalk": 1, stat: 2, "Tclunk": 1,
    }  # fmt: skip
    assert sum(asked.values()) < 4020, asked
    assert reads < 30, reads
    mount.unmount()
