"""Tasks in one dimension, quadratic around a centre and linear far from it: the toy of UFO-BLO's code."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.algorithms import fo_blo, ufo_blo
from bilevel.hypergradient import hypergradient
from bilevel.inner import descend
from bilevel.response import first_order, unrolled
from bilevel.sampling import full, minibatches
from bilevel.types import Algorithm, Batch, Problem

STEPS = 10


class Bent(NamedTuple):
    """One-dimensional tasks `(a, b, radius)`, each with the minimum b / a.

    Attributes:
      tasks: three arrays with one entry a task.
      inner_step: alpha of the ten inner steps.
    """

    tasks: Any
    inner_step: Any

    def data(self, draws: int) -> Batch:
        """One task a step, each with the same chance: no task is due before half the draws are made."""
        return minibatches(jax.tree.map(lambda a: np.resize(a, draws), self.tasks), None, batch_size=1)

    def algorithm(self, probability: Any, outer_optimizer: Any) -> Algorithm:
        """First-order steps for probability 0, else debiased ones."""
        settings = {"inner_optimizer": self.inner_step, "inner_steps": STEPS, "start": same, "tasks": True}
        settings |= {"outer_optimizer": outer_optimizer, "vectorize": True}
        if isinstance(probability, float) and probability == 0:
            return fo_blo(LOSSES, **settings)
        return ufo_blo(LOSSES, probability=probability, **settings)

    def slopes(self, x: Any) -> tuple[Any, Any]:
        """First-order and exact gradient of every task at the start x, jax code."""
        solver = descend(LOSSES, self.inner_step, STEPS)
        responses = first_order(solver, start=same), unrolled(solver, start=same)

        def pair(task):
            return tuple(hypergradient(LOSSES, r, x, x, full(task, task))[0] for r in responses)

        return jax.vmap(pair)(jax.tree.map(jnp.asarray, self.tasks))

    def moments(self, points: Any) -> tuple[float, float]:
        """V2 and D2, the largest means over the tasks of |e|^2 and |e - o|^2 at the points."""
        o, e = jax.jit(jax.vmap(self.slopes))(jnp.asarray(points))
        return float((e**2).mean(1).max()), float(((e - o) ** 2).mean(1).max())

    def limits(self) -> tuple[float, float]:
        """Where first-order steps settle and where M' is 0, all tasks within the radius."""
        a, b, _ = (np.asarray(leaf, float) for leaf in self.tasks)
        p = (1 - float(self.inner_step) * a) ** STEPS
        return float(b @ p / (a @ p)), float(b @ p**2 / (a @ p**2))


def same(x):
    """Tasks start at x itself."""
    return x


def bent_loss(y: Any, task: Any) -> Any:
    """Quadratic around b / a up to the radius, then bending into a line within 1: twice differentiable."""
    a, b, radius = task
    z = jnp.abs(y - b / a)
    between = -((z - radius) ** 3) / 6 + (z - radius) ** 2 / 2 + radius * z - radius**2 / 2
    far = (0.5 + radius) * z - 1 / 6 - radius**2 / 2 - radius / 2
    return a * jnp.where(z <= radius, z**2 / 2, jnp.where(z <= radius + 1, between, far))


LOSSES = Problem(lambda x, y, task: bent_loss(y, task), lambda x, y, task: bent_loss(y, task))


def bent_tasks(a: tuple, b: tuple, radius: float, inner_step: Any) -> Bent:
    """The tasks of given curvatures a and centres b / a."""
    return Bent((np.array(a), np.array(b), np.full(len(a), radius)), inner_step)


def counterexample(level: float, inner_step: float = 0.1) -> Bent:
    """Two tasks for which M'^2 is 2 level where first-order steps settle."""
    a1, a2 = 0.5, 1.5
    p1, p2 = ((1 - inner_step * a) ** STEPS for a in (a1, a2))
    b2 = 2 * (2 * level) ** 0.5 / abs((a1 * p1**2 + a2 * p2**2) * p2 / (a1 * p1 + a2 * p2) - p2**2)
    return bent_tasks((a1, a2), (0.0, b2), b2 / a2 + 1, inner_step)
