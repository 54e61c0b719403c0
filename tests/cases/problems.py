"""Problems with known answers, shared by the tests."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel import Problem, full


class Case(NamedTuple):
    """A problem on full data with a known answer.

    Attributes:
      problem: the two losses.
      x, y: a starting point.
      data: full data of the problem.
      step: inner step size that suits the problem.
      exact: `x -> (y*, hypergradient)` as flat vectors.
    """

    problem: Problem
    x: Any
    y: Any
    data: Any
    step: float
    exact: Any


def unread(x, y, batch):
    """Raise an error; the outer loss of problems that are tested by their inner loss alone."""
    raise AssertionError("the outer loss must not be read")


def flat(pytree):
    return np.asarray(ravel_pytree(pytree)[0])


def relative_error(got, want):
    got, want = flat(got), flat(want)
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def quadratic_case(seed=0):
    """Return a quadratic case with dicts x (2 + 4 entries) and y (3 + 2), all coupled."""
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


def inner_box(bound):
    """Return the projection of the quadratic case's y that bounds the entries 0 and 2 of `u` by `bound`."""

    def project(y):
        width = bound * jnp.array([1, jnp.inf, 1])
        return {"u": jnp.clip(y["u"], -width, width), "w": y["w"]}

    return project


def boxed_case(bound):
    """Return the quadratic case with `inner_box(bound)` as feasible set of y."""
    case = quadratic_case()
    slope = jax.grad(case.problem.inner, argnums=1)
    unflat = ravel_pytree(case.y)[1]
    zero, width = np.zeros(5), np.array([bound, np.inf, bound, np.inf, np.inf])

    def vector(y):
        return unflat(jnp.asarray(y))

    def inner_slope(x, y):
        return flat(slope(x, vector(y), None))

    H = np.stack([inner_slope(case.x, unit) - inner_slope(case.x, zero) for unit in np.eye(5)])

    def exact(x):
        y, offset = zero, inner_slope(x, zero)
        for _ in range(1000):  # projected gradient descent, to rounding
            y = np.clip(y - 0.9 * (H @ y + offset), -width, width)
        free = np.abs(y) < width
        f_x, f_y = map(flat, jax.grad(case.problem.outer, argnums=(0, 1))(x, vector(y), None))
        v = np.zeros(5)
        v[free] = np.linalg.solve(H[np.ix_(free, free)], f_y[free])
        pull = jax.vjp(lambda x: slope(x, vector(y), None), x)[1]
        return y, f_x - flat(pull(vector(v)))

    problem = replace(case.problem, inner_projection=inner_box(bound))
    return case._replace(problem=problem, exact=exact)


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


def logistic_case(direct=False):
    """Return logistic regression of 10 weights on 200 rows, each weight with its own L2 strength exp(x_j).

    f is the logistic loss on 200 other rows, so f_x = 0. `direct` adds 0.025 |x - 1|^2 to f and starts at
    x = -2.
    """
    rng = np.random.default_rng(0)
    scale = np.linspace(1, 0.3, 10)
    train, valid = rng.normal(size=(200, 10)) * scale, rng.normal(size=(200, 10)) * scale
    truth = rng.normal(size=10)
    signs = [np.sign(rows @ truth + 0.5 * rng.normal(size=200)) for rows in (train, valid)]
    x = 0.3 * rng.normal(size=10) - 2

    def loss(y, batch):
        rows, signs = batch
        return jnp.mean(jax.nn.softplus(-signs * (rows @ y)))

    def inner(x, y, batch):
        return loss(y, batch) + 0.5 * jnp.sum(jnp.exp(x) * y**2)

    def outer(x, y, batch):
        return loss(y, batch) + (0.025 * jnp.sum((x - 1) ** 2) if direct else 0.0)

    def exact(x):
        x, y = np.asarray(x), np.zeros(10)
        for _ in range(30):  # Newton's method, to rounding
            slope = -signs[0] / (1 + np.exp(signs[0] * (train @ y)))
            curvature = np.abs(slope) * (1 - np.abs(slope))
            H = (train.T * curvature) @ train / 200 + np.diag(np.exp(x))
            y = y - np.linalg.solve(H, train.T @ slope / 200 + np.exp(x) * y)
        f_y = valid.T @ (-signs[1] / (1 + np.exp(signs[1] * (valid @ y)))) / 200
        direct_term = 0.05 * (x - 1) if direct else 0.0
        return y, direct_term - np.exp(x) * y * np.linalg.solve(H, f_y)

    data = full(tuple(map(jnp.asarray, (valid, signs[1]))), tuple(map(jnp.asarray, (train, signs[0]))))
    x = jnp.full(10, -2.0) if direct else jnp.asarray(x)
    return Case(Problem(outer, inner), x, jnp.zeros(10), data, 0.5, exact)


class Directions(NamedTuple):
    """Closed forms of few-task directions, each a flat mean over the tasks.

    Attributes:
      y: y_N, the inner variable after N inner steps.
      exact: gradient of the loss after N inner steps.
      first_order: the same gradient without second derivatives.
      reptile: x - y_N.
      implicit: gradient of iMAML with a pull of 2.
    """

    y: Any
    exact: Any
    first_order: Any
    reptile: Any
    implicit: Any


def few_tasks_case(features=False, steps=5, step=0.3):
    """Return four quadratic tasks with different support and query losses; `exact(x)` gives `Directions`."""
    rng = np.random.default_rng(0)
    tasks, p, q = 4, 2, 3

    def definite():
        basis = np.linalg.qr(rng.normal(size=(tasks, q, q)))[0]
        return np.einsum("tij,tj,tkj->tik", basis, rng.uniform(0.3, 1.0, size=(tasks, q)), basis)

    A, D = definite(), definite()
    c, e = rng.normal(size=(2, tasks, q))
    B, C = 0.3 * rng.normal(size=(2, tasks, p, q))

    def inner(x, y, task):
        A, c, B = task["support"]
        y = ravel_pytree(y)[0]
        shared = x["features"]["p"] @ (B @ y) if features else 0.0
        return 0.5 * (y - c) @ A @ (y - c) + shared

    def outer(x, y, task):
        D, e, C = task["query"]
        y, loss = ravel_pytree(y)[0], 0.0
        if features:
            shared = x["features"]["p"]
            loss = 0.5 * jnp.sum(shared**2) + shared @ (C @ y)
        return 0.5 * (y - e) @ D @ (y - e) + loss

    head = {"u": jnp.asarray(rng.normal(size=2)), "w": jnp.asarray(rng.normal(size=(1, 1)))}
    x = {"head": head, "features": {"p": jnp.asarray(rng.normal(size=p))}} if features else head

    def exact(x):
        start, shared = (flat(x["head"]), flat(x["features"])) if features else (flat(x), np.zeros(p))
        ys, slopes, firsts, pulled = [], [], [], []
        for i in range(tasks):
            centre = c[i] - np.linalg.solve(A[i], B[i].T @ shared)
            P = np.linalg.matrix_power(np.eye(q) - step * A[i], steps)
            y = centre + P @ (start - centre)
            f_y = D[i] @ (y - e[i]) + C[i].T @ shared
            response = -(np.eye(q) - P) @ np.linalg.solve(A[i], B[i].T)
            direct = shared + C[i] @ y
            blocks = [direct + response.T @ f_y, P @ f_y] if features else [P @ f_y]
            ys.append(y)
            slopes.append(np.concatenate(blocks))
            firsts.append(np.concatenate([direct, f_y] if features else [f_y]))
            near = np.linalg.solve(A[i] + 2 * np.eye(q), A[i] @ c[i] + 2 * start)
            pulled.append(np.linalg.solve(np.eye(q) + A[i] / 2, D[i] @ (near - e[i])))
        means = (np.mean(values, 0) for values in (ys, slopes, firsts, pulled))
        y, exact, first_order, implicit = means
        return Directions(y, exact, first_order, start - y, implicit)

    data = full(
        {
            name: tuple(map(jnp.asarray, part))
            for name, part in dict(support=(A, c, B), query=(D, e, C)).items()
        },
        None,
    )
    return Case(Problem(outer, inner), x, head, data, step, exact)


CASES = {"quadratic": quadratic_case, "quartic": quartic_case}


def central_difference(function, x, step=1e-6):
    """Return the flat gradient of a scalar function of a pytree, entry by entry."""
    vector, unravel = ravel_pytree(x)
    slopes = []
    for i in range(vector.size):
        move = jnp.zeros_like(vector).at[i].set(step)
        slopes.append((function(unravel(vector + move)) - function(unravel(vector - move))) / (2 * step))
    return np.array(slopes)
