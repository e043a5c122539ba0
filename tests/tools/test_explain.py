"""`--explain`: a command as lines of sh.  That they do what the command does is tested on a
mount, in clients/test_explained.py."""

from __future__ import annotations

import pytest

from .cluster import llamboctl

LINES = {
    "status": "cat status",
    "nodes list": "cat workers",
    "spawn --count 2 --type tiny": "ls nodes\necho 'spawn --count 2 --type tiny' >ctl\nls nodes",
    "shutdown": "echo shutdown >ctl",
    "infer Hi": "exec 3<>data\nprintf %s Hi >&3\ncat <&3\nexec 3>&-",
    "write prompt one": "printf %s one >prompt",
    "cat out usage": "cat out\ncat usage",
    "ls": "ls",
    "logs": "ls logs\ncat workers",
    "logs host-0000 -n 5": "cat logs/host-0000",
    "top": "cat status\ncat workers\ncat metrics.json",
}


@pytest.mark.parametrize("command", LINES)
def test_it_is_told_and_nothing_is_done(command: str) -> None:
    """There is no cluster at that address, and none is needed."""
    done = llamboctl("--explain", *command.split(), LLAMBO_ADDR="tcp!127.0.0.1!1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == LINES[command] + "\n"


def test_a_conversation_of_its_own_is_held_open_until_its_end() -> None:
    done = llamboctl("--explain", "infer", "Who's there?", "--seed", "7", "--system", "Be brief.")
    assert done.stdout.decode().splitlines() == [
        "exec 3<>clone",
        "read n <&3",
        "echo 'seed 7' >&3",
        "printf %s 'Be brief.' >$n/system",
        """printf %s 'Who'"'"'s there?' >$n/prompt""",
        "cat $n/out",
        "exec 3>&-",
    ]


@pytest.mark.parametrize("command", ["init", "mount", "unmount", "cert ca", "trace unix!/nowhere"])
def test_what_is_not_made_of_files_says_so(command: str) -> None:
    done = llamboctl("--explain", *command.split())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"# ")


def test_a_wrong_command_line_is_still_one() -> None:
    assert llamboctl("--explain", "spawn", "--count", "0").returncode == 2
