"""Conversations of real clients with the tree of the transcripts, played again: to the
same requests the same replies.  `recording` says how they are made.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llambo9p.p9.dialects import DIALECTS

from .recording import RECORDED
from .transcript import playing


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_the_server_answers_as_it_did(path: Path) -> None:
    with playing() as player:
        player.play(path.read_text())


def test_every_dialect_was_recorded() -> None:
    text = "".join(path.read_text() for path in RECORDED)
    spoken = set(re.findall(r'^<- Rversion .* version "(.*)"$', text, re.MULTILINE))
    assert spoken == set(DIALECTS)
