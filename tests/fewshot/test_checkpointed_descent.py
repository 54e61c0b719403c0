"""Checkpointing and embedding change neither values nor derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel.inner import checkpointed, embedded


def cubic():
    """Return a problem whose inner loss is not quadratic."""
    random = np.random.default_rng(0)
    a, c = jnp.asarray(random.normal(size=(4, 3))), jnp.asarray(random.normal(size=4))

    def inner(x, y, batch):
        return 0.5 * jnp.sum((a @ y - jnp.tanh(x + c)) ** 2) + 0.1 * jnp.sum(jnp.cos(y) * x[:3])

    return b.Problem(lambda x, y, batch: jnp.sum(jnp.sin(y)) + 0.1 * jnp.sum(x**2), inner)


def second_derivative(solver, start):
    problem = cubic()
    fit = b.solution(b.unrolled(solver, start=start))

    def loss(x):
        y = fit(x, jnp.ones(3), b.full(None, None))
        return problem.outer(x, y, None)

    return jax.jit(lambda x: (jax.grad(loss)(x), jax.jacrev(jax.grad(loss))(x)))(jnp.linspace(-1, 1, 4))


@pytest.mark.parametrize("start, last", [(None, 7), (lambda x: x[:3], None)], ids=["fixed", "learnt"])
def test_checkpoints_change_neither_first_nor_second_derivatives(start, last):
    plain, once, twice = (
        second_derivative(b.descend(cubic(), 0.1, 10, last=last, recompute=levels), start)
        for levels in range(3)
    )
    assert jnp.max(jnp.abs(plain[1] - jnp.diag(jnp.diag(plain[1])))) > 1e-3
    for found in (once, twice):
        for got, want in zip(found, plain, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)  # the same sums in another program


@pytest.mark.parametrize("levels", range(4))
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 10, 27, 29])
def test_checkpoints_run_every_step_once_and_in_order(levels, steps):
    def step(carry, i):
        digits, place = carry
        return (digits.at[place].set(i), place + 1), None

    start = jnp.full(steps + 1, -1), jnp.zeros((), jnp.int32)
    digits, place = checkpointed(step, start, jnp.arange(steps), levels)
    assert place == steps
    np.testing.assert_array_equal(digits, [*range(steps), -1])


def test_recompute_must_not_be_negative():
    with pytest.raises(ValueError, match="^recompute must be at least 0, got -1$"):
        b.descend(cubic(), 0.1, 5, recompute=-1)
    with pytest.raises(ValueError, match="^recompute must be 0 with resample, got 1$"):
        b.maml(cubic(), resample=lambda task, key: task, recompute=1)


def test_an_embedded_solver_has_the_value_and_derivatives_of_the_plain_one():
    calls = []

    def embed(x, minibatch):
        calls.append(1)
        return jnp.tanh(x) * minibatch

    problem = cubic()
    plain = b.Problem(problem.outer, lambda x, y, batch: problem.inner(embed(x, batch), y, batch))
    data = b.full(None, jnp.asarray(1.5))
    solvers = b.descend(plain, 0.1, 6), embedded(b.descend(problem, 0.1, 6), embed)

    def loss(solver, x):
        y = b.solution(b.unrolled(solver))(x, jnp.ones(3), data)
        return problem.outer(x, y, None)

    x = jnp.linspace(-1, 1, 4)
    for derivative in (lambda f: f, jax.grad, lambda f: jax.jacrev(jax.grad(f))):
        want, got = (derivative(functools.partial(loss, solver))(x) for solver in solvers)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)  # the same sums in another order
    calls.clear()
    jax.make_jaxpr(functools.partial(loss, solvers[1]))(x)
    assert len(calls) == 1
    assert solvers[1].cost == solvers[0].cost
