"""limbot and the bundled model: README's session, and an answer that goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .chats import ROOT, Chat, Cluster

pytestmark = pytest.mark.slow

ANSWERED_BY_THE_MODEL = ("/retry",)
"""of the commands"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    made.out("spawn", "--count", "2", "--type", "tiny")
    yield made
    made.close()


def test_the_session_of_readme(cluster: Cluster, tmp_path: Path) -> None:
    """What is typed there, and what is said but by the model."""
    [session] = [
        block
        for block in (ROOT / "README.md").read_text().split("\n```\n")
        if block.startswith("$ limbot\n")
    ]
    shown = []
    model_speaks = False
    with Chat(cwd=tmp_path, **cluster.env) as chat:
        for line in session.replace("tcp!127.0.0.1!5640", cluster.address).splitlines()[1:]:
            if line.startswith("> "):
                typed = line.removeprefix("> ")
                if typed == "/status":  # the workers may not have said yet that they are idle
                    chat.wait_for_prompt()
                    cluster.wait_until_idle()
                chat.enter(typed)
                model_speaks = not typed.startswith("/") or typed in ANSWERED_BY_THE_MODEL
                shown.append(line)
            elif line and not model_speaks:
                shown.append(line)
        chat.wait_for_prompt()
    assert len(shown) > 15
    lines = iter(chat.lines)
    for line in shown:
        assert line in lines, f"{line!r} is not on the screen, or not there: {chat.lines}"


def test_a_restart_changes_no_word_of_an_answer(cluster: Cluster, tmp_path: Path) -> None:
    asked = ("--temperature", "0", "--max-tokens", "100")
    prompt = "Tell me a long story about a river."
    undisturbed = cluster.limbot(*asked, prompt).stdout
    with Chat(*asked, cwd=tmp_path, **cluster.env) as chat:
        chat.enter(prompt)
        chat.wait_for(undisturbed[:20])
        cluster.kill()
        chat.wait_for("[the cluster is gone; ")
        cluster.start()
        chat.enter("/save said")
        chat.wait_for("[2 messages saved in said]")
        chat.enter("/usage")
        chat.wait_for_prompt()
    _, answer = map(json.loads, (tmp_path / "said").read_text().splitlines())
    assert answer["content"] == undisturbed
    [given] = [line.split()[1] for line in chat.lines if line.startswith("given_tokens ")]
    assert int(given) > 0, "it was not asked anew"
