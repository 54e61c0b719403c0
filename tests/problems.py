"""Problems with known answers, shared by the tests."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel import Problem, full


class Case(NamedTuple):
    """A problem on full data, a point, and the inner step size that suits it."""

    problem: Problem
    x: Any
    y: Any
    data: Any
    step: float
    exact: Any  # x -> (y*, hypergradient) as flat vectors


def flat(pytree):
    return np.asarray(ravel_pytree(pytree)[0])


def relative_error(got, want):
    got, want = flat(got), flat(want)
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def quadratic_case(seed=0):
    """Dict-shaped x (2 + 4 entries) and y (3 + 2 entries), all blocks coupled."""
    rng = np.random.default_rng(seed)
    p, q = 6, 5
    basis = np.linalg.qr(rng.normal(size=(q, q)))[0]
    H = basis * np.linspace(0.3, 1.0, q) @ basis.T
    # Couplings small enough for Phi to be convex, with curvatures from 1 to about 5.
    C, D = 0.3 * rng.normal(size=(q, p)), 0.1 * rng.normal(size=(p, q))
    c, e = rng.normal(size=q), rng.normal(size=p)

    def inner(x, y, batch):
        x, y = ravel_pytree(x)[0], ravel_pytree(y)[0]
        return 0.5 * y @ H @ y + y @ C @ x

    def outer(x, y, batch):
        x, y = ravel_pytree(x)[0], ravel_pytree(y)[0]
        return 0.5 * jnp.sum((y - c) ** 2) + 0.5 * jnp.sum((x - e) ** 2) + x @ D @ y

    x = {"a": jnp.asarray(rng.normal(size=2)), "b": jnp.asarray(rng.normal(size=(2, 2)))}
    y = {"u": jnp.zeros(3), "w": jnp.zeros((1, 2))}
    response = -np.linalg.solve(H, C)

    def exact(x):
        x = flat(x)
        y = response @ x
        return y, (x - e) + D @ y + response.T @ (y - c + D.T @ x)

    return Case(Problem(outer, inner), x, y, full(None, None), 0.9, exact)


def quartic_case():
    """`g_y = A y + 0.1 y^3 + B'x`: not quadratic, with a Phi that is convex near its minimum."""
    rng = np.random.default_rng(0)
    p, q = 4, 5
    A, B, c, D = (
        rng.uniform(0.5, 1.5, q),
        rng.normal(size=(p, q)),
        rng.normal(size=q),
        0.2 * rng.normal(size=(q, p)),
    )

    def inner(x, y, batch):
        return 0.5 * jnp.sum(A * y**2) + 0.025 * jnp.sum(y**4) + x @ B @ y

    def outer(x, y, batch):
        return 0.5 * jnp.sum((y - c) ** 2) + 0.5 * jnp.sum(x**2) + x @ D.T @ y

    def exact(x):
        x = np.asarray(x)
        y = np.zeros(q)
        for _ in range(60):  # Newton's method, to rounding
            y = y - (A * y + 0.1 * y**3 + B.T @ x) / (A + 0.3 * y**2)
        v = (y - c + D @ x) / (A + 0.3 * y**2)
        return y, x + D.T @ y - B @ v

    return Case(
        Problem(outer, inner),
        jnp.asarray(0.3 * rng.normal(size=p)),
        jnp.zeros(q),
        full(None, None),
        0.3,
        exact,
    )


CASES = {"quadratic": quadratic_case, "quartic": quartic_case}


def central_difference(function, x, step=1e-6):
    """Gradient of a scalar function of a pytree, entry by entry."""
    vector, unravel = ravel_pytree(x)
    slopes = []
    for i in range(vector.size):
        move = jnp.zeros_like(vector).at[i].set(step)
        slopes.append((function(unravel(vector + move)) - function(unravel(vector - move))) / (2 * step))
    return np.array(slopes)


def counted(problem):
    """The problem with a counter of oracle calls that are really evaluated, at run time.

    `counts["gradients"]` counts gradients of f and of g, `counts["hessian_products"]` and
    `counts["cross_products"]` the two products; each is counted where its values are made.
    """
    counts = {"gradients": 0, "hessian_products": 0, "cross_products": 0}

    def tick(kind, value):
        def add(_):
            counts[kind] += 1
            return np.zeros((), value.dtype)

        # The argument ties the call to the value, so that it is made whenever the value is.
        zero = jax.pure_callback(
            add, jax.ShapeDtypeStruct((), value.dtype), value.sum(), vmap_method="sequential"
        )
        return value + jnp.broadcast_to(zero, value.shape)

    def counting(kind, product):
        @jax.custom_jvp
        def mark(value):
            return tick(kind, value) if kind else value

        @mark.defjvp
        def rule(primals, tangents):
            return mark(*primals), (tick(product, *tangents) if product else tangents[0])

        return mark

    def gradient_with(loss, mark_x, mark_y):
        @jax.custom_vjp
        def wrapped(x, y, batch):
            return loss(x, y, batch)

        def forward(x, y, batch):
            return loss(x, y, batch), (x, y, batch)

        def backward(saved, scale):
            x, y, batch = saved
            g_x, g_y = jax.grad(loss, argnums=(0, 1))(x, y, batch)

            def mark(marker, gradient):
                leaves, structure = jax.tree.flatten(gradient)
                return jax.tree.unflatten(
                    structure, [marker(leaves[0]) * scale] + [g * scale for g in leaves[1:]]
                )

            return mark(mark_x, g_x), mark(mark_y, g_y), None

        wrapped.defvjp(forward, backward)
        return wrapped

    inner = gradient_with(
        problem.inner, counting(None, "cross_products"), counting("gradients", "hessian_products")
    )

    @jax.custom_vjp
    def outer(x, y, batch):
        return problem.outer(x, y, batch)

    def forward(x, y, batch):
        return problem.outer(x, y, batch), (x, y, batch)

    def backward(saved, scale):
        # Both parts of one gradient of f share one call.
        scale = tick("gradients", scale)
        return *(scale * g for g in jax.grad(problem.outer, argnums=(0, 1))(*saved)), None

    outer.defvjp(forward, backward)
    return Problem(outer, inner), counts
