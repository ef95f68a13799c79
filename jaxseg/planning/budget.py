"""Fit a plan to the machine that will train it: to a number of minutes, or to the memory of its GPU.

nnU-Net's plan is for a GPU: 1000 epochs of 250 batches. On a CPU the same rules choose a smaller network and patch, and as many
steps as fit into the minutes; one real step is compiled and timed, not estimated.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxseg.planning.configurations import FIRST_WIDTH, REFERENCE_GB, Network
from jaxseg.types import ConfigError

WIDTH = 8  # channels of the first stage of a network for a CPU; nnU-Net's have 32
CPU_GB = 0.17  # where the search for such a network begins: a patch of 48^3 voxels in a batch of 2
ENOUGH = 300  # steps below which a smaller patch is looked for
EPOCHS, VALIDATIONS = 10, 4
OVERLAP = 0.25  # of windows
FORWARD = 1 / 3  # of a training step's time
SPARE = 0.8  # share of the minutes that is planned; the rest is for reading and preparing images
PROGRAMS = 1.2  # time to compile all programs of a training, in that of its step: the planner leaves the step in the cache
TRIES, SECONDS = 3, 180  # compilations for one network, and what all of a plan may take
FILLED = 0.9  # of a device's memory


class Cost(NamedTuple):
    """A training step on this device: seconds to compile it, seconds that it takes, bytes of memory by XLA's figure."""

    compilation: float
    step: float
    memory: int


class Device(NamedTuple):
    """The machine to plan for.

    Attributes:
      name: its name.
      cpu: whether it is a CPU.
      minutes: what training may take; 0: as long as nnU-Net's.
      memory: bytes of device memory that a step must fit into; None: not limited.
      cost: (config, classes, regions) -> what its training step costs here.
    """

    name: str
    cpu: bool
    minutes: float
    memory: int | None
    cost: Callable[..., Cost]

    @property
    def first_width(self) -> int:
        """Channels of the first stage of the networks that are tried."""
        return WIDTH if self.cpu and self.minutes else FIRST_WIDTH

    @property
    def first_gb(self) -> float:
        """Memory at which the search for a network begins, GB by nnU-Net's estimate."""
        return CPU_GB if self.cpu and self.minutes else REFERENCE_GB


class Allowance:
    """Says whether there is time for one more try of a network, beside one of each that is still to come.

    Args:
      networks: how many are planned.
    """

    def __init__(self, networks: int = 1):
        self._end, self._coming = time.monotonic() + SECONDS, networks

    def begin(self) -> None:
        """Go on to the next network."""
        self._coming -= 1

    def allows(self, took: float) -> bool:
        """Return whether another compilation fits that takes as long as the last one, `took` seconds."""
        return time.monotonic() + took * (1 + self._coming) < self._end


class Budget(NamedTuple):
    """The length of a training, and the measured step that it was derived from."""

    minutes: float
    steps: int
    epochs: int
    per_volume: int
    cost: Cost


def length(cost: Cost, network: Network, cases: Sequence[float], minutes: float) -> Budget:
    """Return the number of steps that fit into the minutes, beside compilation, validations and the final scores.

    Args:
      cost: the measured step.
      network: the planned network.
      cases: number of cases to train, validate and test on.
      minutes: of the whole command.
    """
    train, val, test = cases
    windows = math.prod(max(1, math.ceil((n / p - 1) / (1 - OVERLAP)) + 1) for n, p in zip(network.median, network.patch))
    passes = windows * (VALIDATIONS * val + 2 * test) / network.batch * FORWARD  # in steps
    possible = (minutes * 60 * SPARE - PROGRAMS * cost.compilation) / cost.step
    steps = max(possible - passes, possible / 2, EPOCHS)
    per_volume = max(1, round(steps * network.batch / (EPOCHS * train)))
    per_epoch = max(1, round(per_volume * train / network.batch))
    epochs = max(1, round(steps / per_epoch))
    return Budget(minutes, epochs * per_epoch, epochs, per_volume, cost)


def to_minutes(
    make: Callable[[float], Network],
    cost: Callable[[Network], Cost],
    cases: Sequence[float],
    minutes: float,
    *,
    memory_gb: float,
    allowance: Allowance,
) -> tuple[Network, Budget]:
    """Return (network, its training), with smaller patches while too few steps fit.

    Args:
      make: GB, as nnU-Net estimates them -> network.
      cost: network -> its measured step.
      cases, minutes: as for `length`.
      memory_gb: GB to begin with.
      allowance: of all networks of the plan.
    """
    network = make(memory_gb)
    allowance.begin()
    for number in range(TRIES):
        found = cost(network)
        budget = length(found, network, cases, minutes)
        if budget.steps >= ENOUGH or number + 1 == TRIES or not allowance.allows(found.compilation):
            break
        smaller, memory_gb = _smaller(make, memory_gb, network, FILLED * budget.steps / ENOUGH)
        if smaller.patch == network.patch:
            break
        network = smaller
    return network, budget


def to_memory(
    make: Callable[[float], Network],
    cost: Callable[[Network], Cost],
    memory_gb: float,
    limit: int | None,
    *,
    allowance: Allowance,
) -> tuple[Network, Cost]:
    """Return (network, its measured step), with smaller patches while XLA's figure exceeds the device's memory.

    Args:
      make, cost, memory_gb, allowance: as for `to_minutes`.
      limit: bytes of the device; None: not limited.
    """
    network = make(memory_gb)
    allowance.begin()
    for number in range(TRIES):
        found = cost(network)
        fits = limit is None or found.memory <= FILLED * limit
        if fits or number + 1 == TRIES or not allowance.allows(found.compilation):
            break
        network, memory_gb = _smaller(make, memory_gb, network, FILLED * FILLED * limit / found.memory)
    return network, found


def _smaller(make: Callable[[float], Network], memory_gb: float, network: Network, share: float) -> tuple[Network, float]:
    """Return (the network whose batch has at most this share of the voxels, the memory it was made for), or the smallest one."""
    voxels = lambda one: one.batch * math.prod(one.patch)
    found, goal = network, share * voxels(network)
    while voxels(found) > goal:
        memory_gb *= FILLED
        try:
            found = make(memory_gb)
        except ConfigError:
            break
    return found, memory_gb
