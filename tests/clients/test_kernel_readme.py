"""The session with Linux's kernel that README shows, in the guest."""

from __future__ import annotations

import re
from pathlib import Path

from .guest import Guest
from .served import Served

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_session_with_the_kernel_is_one(guest: Guest, cluster: Served) -> None:
    """Commands that fail do so as shown; the others, whose answers are the model's, do not.
    (`held` is a mount of other tests.)"""
    [session] = re.findall(r"^```console\n(# .*?)^```$", README, re.MULTILINE | re.DOTALL)
    shown = re.findall(r"^# (.*)\n((?:(?!# ).*\n)*)", session, re.MULTILINE)
    assert len(shown) > 6
    script = "".join(f"printf '\\036'\n{command}\n" for command, _ in shown)
    ours = script.replace("5640", str(cluster.door().port))
    said = guest.terminals[0].run(ours).output.split("\036")[1:]
    for (command, output), came in zip(shown, said, strict=True):
        if "write error" in output or not output:
            assert re.sub(r"^\S+: line \d+: ", "sh: ", came) == output, command
        elif command.endswith("ls"):
            assert set(came.split()) - {"held"} == set(output.split()), command
        else:
            assert came and "rror" not in came, f"{command}: {came}"
