"""Python runs this when it starts, in each process of the cluster: the simulated engine takes
its time, which no option of a host's says, and answers as `tests.chaos.answers`.
"""

from functools import partial
from os import environ
from time import sleep

from llambo9p.engine import simulated
from tests.chaos.answers import answer

simulated.SimulatedRunner = partial(  # type: ignore[misc, assignment]
    simulated.SimulatedRunner,
    answer=answer,
    latency=simulated.Latency(base=float(environ.get("CHAOS_STEP_S", "0.005"))),
    sleep=sleep,
)
