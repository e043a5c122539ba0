"""The thirty bugs found in other 9P servers, by their numbers, and what a mutation is.

A test that would find one bears its number: `test_14_...`, or `test_15_16_...` for two.
`mutations` says for each bug which line of ours keeps it away.
"""

from __future__ import annotations

from typing import NamedTuple

THIRTY = {
    1: "a prompt longer than msize became several requests",
    2: "UTF-8 split between Twrites or between Rreads was mangled",
    3: "`cat clone` allocated one conversation per read",
    4: "a second prompt contained the first",
    5: "stream files sliced each chunk by the file offset; what did not fit count was dropped",
    6: "of two blocked readers one was never woken",
    7: "a read after EOF hung; a late reader got nothing",
    8: "when nobody read the stream the generation stopped half-way",
    9: "a blocking read stalled every other client",
    10: "Tflush was answered late, or the stale answer arrived on a re-used tag",
    11: "clunk or disconnect with a read pending crashed or leaked",
    12: "fid tables were shared between connections",
    13: "a partial walk set newfid",
    14: "directory entries were split, not rewound, cut off at 1,000, or changed under the reader",
    15: "the same file had a new qid at each walk",
    16: "a multiplexer forwarded two workers' equal qids unchanged",
    17: "a worker died and its outstanding tags were never answered",
    18: "ctl commands ran twice, or failed only in the log",
    19: "count beyond msize; msize of 0, of 10, of 4 GB",
    20: "frames split or joined, too short, strings beyond them, NUL and invalid UTF-8",
    21: "backend errors came back as a successful answer's text",
    22: "enumerable private names let one user open another's conversation",
    23: "a 60 s watchdog killed slow but healthy prefills",
    24: "cancelling a queued request killed the running one",
    25: "a client's death left its fids and its generation alive",
    26: "model load failure surfaced only at the first read",
    27: "a tag was re-used while outstanding",
    28: "a fid was re-used before Rclunk",
    29: "the server took names like `../../etc` from clients",
    30: "a thousand idle connections; a client that never reads its replies",
}


class Mutation(NamedTuple):
    """One line of the program made wrong, which brings a bug back."""

    bug: int
    why: str
    """what is wrong then"""
    file: str
    line: str
    mutated: str
    test: str
    """that fails then, as pytest names it"""
