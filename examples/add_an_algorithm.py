"""Add an algorithm in 60 lines: AmIGO, which alternates Q steps on y, Q steps on v and one step on x.

It is compared with SOBA on a task with a known answer. An algorithm is a pair of pure functions and
what one step consumes; `run` does the rest: minibatches, logging, checkpoints, seeds.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import bilevel
from bilevel import tasks
from bilevel.calculus import hessian_product, products


class AmigoState(NamedTuple):
    x: Any
    y: Any
    v: Any


def amigo(problem, *, inner_step=0.1, outer_step=0.01, inner_steps=10):
    """y: Q gradient steps on g;  v: Q gradient steps on v'Hv/2 - f_y'v;  x <- x - step (f_x - J v)."""
    tree = optax.tree

    def init(x, y):
        return AmigoState(x, y, tree.zeros_like(y))

    def step(state, batch, key):
        x = state.x

        def train(y, i):
            return tree.add_scale(
                y, -inner_step, jax.grad(problem.inner, argnums=1)(x, y, batch.inner[i])
            ), None

        y, _ = jax.lax.scan(train, state.y, jnp.arange(inner_steps))
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])

        def solve(v, i):
            residual = tree.sub(hessian_product(problem.inner, x, y, batch.inner[i], v), f_y)
            return tree.add_scale(v, -inner_step, residual), None

        v, _ = jax.lax.scan(solve, state.v, inner_steps + jnp.arange(inner_steps))
        cross = products(problem.inner, x, y, batch.inner[2 * inner_steps], v).cross
        gradient = tree.sub(f_x, cross)
        metrics = {"outer_loss": problem.outer(x, y, batch.outer[0]), "gradient_norm": tree.norm(gradient)}
        return AmigoState(tree.add_scale(x, -outer_step, gradient), y, v), metrics

    draws = bilevel.Draws(outer=1, inner=2 * inner_steps + 1)
    return bilevel.Algorithm(init, step, draws, bilevel.Cost(inner_steps + 1, inner_steps, 1), "amigo")


task = tasks.quadratic()
key = jax.random.key(0)
x, y = task.start(key)
rivals = [
    amigo(task.problem, inner_step=task.inner_step, outer_step=task.outer_step),
    bilevel.soba(task.problem, inner_optimizer=task.inner_step, outer_optimizer=task.outer_step),
]
for algorithm in rivals:
    result = bilevel.run(algorithm, x, y, task.data(task.batch_size), steps=2000, key=key)
    found = task.metrics(result.state.x, result.state.y, task.held)
    print(
        f"{algorithm.name:6} {algorithm.cost.total} calls a step, suboptimality {found['suboptimality']:.4f}"
    )
    assert found["suboptimality"] < 2
