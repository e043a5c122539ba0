"""Python runs this when it starts, in each process of the cluster: the simulated engine obeys
prompts that want to harm its host, and takes a moment for each step.

Where $FAULTY_ONCE names a file, a prompt harms only while the file is there, and removes it.
"""

import os
import signal
import threading
from time import sleep

from llambo9p.engine import simulated
from llambo9p.engine.runner import Step

FAULTS = {
    b"please abort": os.abort,
    b"please hang": lambda: threading.Event().wait(),
    b"please stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    b"please die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    b"please fail": lambda: 1 / 0,
}


class Faulty(simulated.SimulatedRunner):
    """Harms the host in the first step that has read such a prompt to its end."""

    def run(self, step: Step) -> list[int]:
        sampled = super().run(step)
        for output in step.outputs:
            cells = self.cells[step.seq_id[output.row]]
            said = bytes(token for token in cells if token < simulated.EOG)
            for words, harm in FAULTS.items():
                if words in said and may_harm():
                    harm()
        return sampled


def may_harm() -> bool:
    once = os.environ.get("FAULTY_ONCE")
    if once is not None:
        try:
            os.unlink(once)
        except FileNotFoundError:
            return False
    return True


def faulty(**options: object) -> Faulty:
    return Faulty(latency=simulated.Latency(base=0.002), sleep=sleep, **options)


simulated.SimulatedRunner = faulty  # type: ignore[misc, assignment]
