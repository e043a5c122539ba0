"""What limbot shows of answers holds for every vocabulary: that they go on, what is forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .chats import Cluster

pytestmark = pytest.mark.slow

GREEDY = ("-i", "--temperature", "0")


class OneModel(Cluster):
    model: str


@pytest.fixture(scope="module", params=["smollm2", "spm", "bpe"])
def cluster(request, model_file, tmp_path_factory) -> Iterator[OneModel]:
    made = OneModel(tmp_path_factory.mktemp("cluster"))
    made.model = request.param
    made.out("spawn", "--count", "1", "--type", "tiny", "--model", str(model_file(request.param)))
    yield made
    made.close()


def figures(printed: str, name: str) -> list[int]:
    """Of each `/usage`."""
    lines = map(str.split, printed.splitlines())
    return [int(line[1]) for line in lines if line[:1] == [name]]


def test_more_goes_on_as_if_it_had_never_been_cut(cluster: OneModel, tmp_path: Path) -> None:
    prompt = "Tell me a long story about a river."
    whole = cluster.limbot(*GREEDY[1:], "--max-tokens", "60", prompt).stdout
    said = tmp_path / "said"
    lines = [prompt, "/more", "/more", f"/save {said}", "/usage", "And then?", "/usage"]
    done = cluster.limbot(
        *GREEDY, "--max-tokens", "20", stdin="".join(f"{line}\n" for line in lines)
    )
    _, answer = map(json.loads, said.read_text().splitlines())
    assert answer["content"] == whole
    assert figures(done.stdout, "given_tokens")[0] == 40
    assert figures(done.stdout, "completion_tokens")[0] == 60
    prompts, cached = (figures(done.stdout, f"{what}_tokens") for what in ("prompt", "cached"))
    assert cached[0] == prompts[0], "it went on where it was, without the prompt read again"
    # what is random says words in pieces that nobody would cut them into
    assert cached[1] > (60 if cluster.model == "smollm2" else 20)


def test_forgetting_is_told_when_it_begins(cluster: OneModel) -> None:
    turns = ["What do you know about rivers and the towns beside them?", "/usage"] * 12
    done = cluster.limbot(
        *GREEDY, "--max-tokens", "30", stdin="".join(f"{line}\n" for line in turns)
    )
    trimmed = figures(done.stdout, "trimmed_turns")
    assert trimmed[0] == 0 < trimmed[-1] < 12 and trimmed == sorted(trimmed)
    told = [line for line in done.stderr.splitlines() if "forgotten" in line]
    first = next(filter(None, trimmed))
    which = "the first turn is" if first == 1 else f"the first {first} turns are"
    assert told == [f"[{which} forgotten: the context is full]"]
