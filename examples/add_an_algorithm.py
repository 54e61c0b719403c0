"""Write an algorithm in 60 lines: AmIGO, with Q steps on y, Q steps on v and one step on x.

An algorithm is a pair of pure functions, with the minibatches and the cost of one step. `run` does the rest:
minibatches, logging, checkpoints, seeds. `check_algorithm` tests it, and SOBA is the rival on a task with a
known answer.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import bilevel
from bilevel import tasks
from bilevel.testing import check_algorithm


class AmigoState(NamedTuple):
    x: Any
    y: Any
    v: Any


def amigo(problem, *, inner_step=0.1, outer_step=0.01, inner_steps=10):
    """Return AmIGO: y descends on g, v on v'Hv/2 - f_y'v, then x <- x - outer_step (f_x - J v)."""
    tree = optax.tree

    def init(x, y):
        x, y = bilevel.as_variables(x, y)
        return AmigoState(x, y, tree.zeros_like(y))

    def step(state, batch, key):
        x = state.x

        def train(y, i):
            return tree.add_scale(
                y, -inner_step, jax.grad(problem.inner, argnums=1)(x, y, batch.inner[i])
            ), None

        y, _ = jax.lax.scan(train, state.y, jnp.arange(inner_steps))
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])

        def residual(v, i):
            return tree.sub(bilevel.hessian_product(problem.inner, x, y, batch.inner[i], v), f_y)

        def solve(v, i):
            return tree.add_scale(v, -inner_step, residual(v, i)), None

        v, _ = jax.lax.scan(solve, state.v, inner_steps + jnp.arange(inner_steps))
        last = 2 * inner_steps
        cross = bilevel.products(problem.inner, x, y, batch.inner[last], v).cross
        gradient = tree.sub(f_x, cross)
        unsolved = tree.norm(residual(v, last)) / tree.norm(f_y)
        metrics = bilevel.measures(problem, x, y, batch, last, gradient, unsolved)
        return AmigoState(tree.add_scale(x, -outer_step, gradient), y, v), metrics

    draws = bilevel.Draws(outer=1, inner=2 * inner_steps + 1)
    cost = bilevel.Cost(gradients=inner_steps + 1, hessian_products=inner_steps, cross_products=1)
    return bilevel.Algorithm(init=init, step=step, draws=draws, cost=cost, name="amigo")


task = tasks.quadratic()
key = jax.random.key(0)
x, y = task.start(key)
check_algorithm(amigo(task.problem), x, y, task.minibatches(task.batch_size), key)
rivals = [
    amigo(task.problem, inner_step=task.inner_step, outer_step=task.outer_step),
    bilevel.soba(task.problem, inner_optimizer=task.inner_step, outer_optimizer=task.outer_step),
]
for algorithm in rivals:
    result = bilevel.run(algorithm, x, y, task.minibatches(task.batch_size), steps=2000, key=key)
    found = task.metrics(result.state.x, result.state.y, task.held)
    print(
        f"{algorithm.name:6} {algorithm.cost.total} calls a step, suboptimality {found['suboptimality']:.4f}"
    )
    assert found["suboptimality"] < 2
