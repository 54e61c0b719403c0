"""Tasks in one dimension, quadratic near a centre and linear far from it, as in the code of UFO-BLO."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.algorithms import fo_blo, ufo_blo
from bilevel.hypergradient import hypergradient
from bilevel.inner import descend
from bilevel.response import first_order, unrolled
from bilevel.sampling import full, minibatches
from bilevel.types import Algorithm, Problem
from bilevel_claims.experiment import Experiment

STEPS, SLOPE, DRAWS = 10, "|M'(x)|", "exact draws"


class Bent(NamedTuple):
    """One-dimensional tasks, each with its minimum at b / a, and alpha of the ten inner steps."""

    tasks: Any  # a, b and radius, with one entry a task
    inner_step: Any

    def algorithm(self, probability: Any, c: Any) -> Algorithm:
        """Return first-order steps of size c / k if the probability is 0.0, else debiased ones."""
        settings = PATH | {"inner_optimizer": self.inner_step, "vectorize": True}
        settings["outer_optimizer"] = lambda count: c / (count + 1.0)
        if isinstance(probability, float) and probability == 0:
            return fo_blo(LOSSES, **settings)
        return ufo_blo(LOSSES, probability=probability, **settings)

    def experiment(self, low: float, high: float, draws: int, seeds: Any) -> Experiment:
        """Return an experiment with uniform starts that measures x, the true slope and the exact draws.

        Its data are `draws` tasks in random order; twice as many as steps keep all nearly equally likely.
        """

        def start(key):
            return jax.random.uniform(key, minval=low, maxval=high), jnp.zeros(())

        def measure(state, held):
            slope = jnp.abs(self.slopes(state.x)[1].mean())
            return {SLOPE: slope, "x": state.x, DRAWS: exact_draws(state)}

        data = minibatches(jax.tree.map(lambda a: np.resize(a, draws), self.tasks), None, batch_size=1)
        return Experiment(data, start, measure, seeds=seeds, seeds_in_sequence=False)

    def slopes(self, x: Any) -> tuple[Any, Any]:
        """Return the first-order and the exact gradient of every task at the start x, in JAX code."""
        solver = descend(LOSSES, self.inner_step, STEPS)
        responses = first_order(solver, start=same), unrolled(solver, start=same)

        def pair(task):
            return tuple(hypergradient(LOSSES, r, x, x, full(task, task))[0] for r in responses)

        return jax.vmap(pair)(jax.tree.map(jnp.asarray, self.tasks))

    def moments(self, points: Any) -> tuple[float, float]:
        """Return the largest mean |e|^2 and |e - o|^2; o and e are first-order and exact gradients."""
        o, e = jax.jit(jax.vmap(self.slopes))(jnp.asarray(points))
        return float((e**2).mean(1).max()), float(((e - o) ** 2).mean(1).max())

    def limits(self) -> tuple[float, float]:
        """Return the limit of first-order steps and the zero of M', with all tasks within the radius."""
        a, b, _ = (np.asarray(leaf, float) for leaf in self.tasks)
        p = (1 - float(self.inner_step) * a) ** STEPS
        return float(b @ p / (a @ p)), float(b @ p**2 / (a @ p**2))


def same(x: Any) -> Any:
    """Return x: each task starts at x itself."""
    return x


def exact_draws(state: Any) -> Any:
    """Return the number of exact gradients drawn so far, 0 for a method without a coin."""
    return state.seen.exact_draws if hasattr(state, "seen") else jnp.zeros(())


def bent_loss(y: Any, task: Any) -> Any:
    """Return a loss quadratic around b / a up to the radius, linear from radius + 1, and C2 between."""
    a, b, radius = task
    z = jnp.abs(y - b / a)
    between = -((z - radius) ** 3) / 6 + (z - radius) ** 2 / 2 + radius * z - radius**2 / 2
    far = (0.5 + radius) * z - 1 / 6 - radius**2 / 2 - radius / 2
    return a * jnp.where(z <= radius, z**2 / 2, jnp.where(z <= radius + 1, between, far))


LOSSES = Problem(lambda x, y, task: bent_loss(y, task), lambda x, y, task: bent_loss(y, task))
PATH: dict[str, Any] = {"inner_steps": STEPS, "start": same, "tasks": True}


def bent_tasks(a: tuple, b: tuple, radius: float, inner_step: Any) -> Bent:
    """Return tasks of curvatures a around the centres b / a."""
    return Bent((np.array(a), np.array(b), np.full(len(a), radius)), inner_step)


def counterexample(level: float, inner_step: float = 0.1) -> Bent:
    """Return two tasks for which M'^2 is twice the level where first-order steps settle."""
    a1, a2 = 0.5, 1.5
    p1, p2 = ((1 - inner_step * a) ** STEPS for a in (a1, a2))
    b2 = 2 * (2 * level) ** 0.5 / abs((a1 * p1**2 + a2 * p2**2) * p2 / (a1 * p1 + a2 * p2) - p2**2)
    return bent_tasks((a1, a2), (0.0, b2), b2 / a2 + 1, inner_step)
