"""The minibatch that each term reads: two steps of an algorithm against numpy with explicit indices.

g_i = y'A_i y / 2 + y'C_i x,  f_j = |y - b_j|^2 / 2 + e_j'x, all different for every i and j.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel.response import gaussian
from bilevel.types import Point
from cases.minibatches import ALPHA, BATCH, KEY, PROBLEM, RHO, STEPS, A, B, C, E, Q, X, Y


def train(x, y, steps):
    path = [y]
    for i in range(steps):
        path.append(path[-1] - RHO * (A[i] @ path[-1] + C[i] @ x))
    return path


def itd_bio(x, y, memory):
    path = train(x, y, 4)
    w, total = path[-1] - B[0], 0
    for i in reversed(range(4)):
        total, w = total + C[i].T @ w, w - RHO * A[i] @ w
    return x - ALPHA * (E[0] - RHO * total), path[-1], None


def aid_bio(x, y, v):
    """With three entries of y, three steps of conjugate gradients are exact."""
    y = train(x, y, 4)[-1]
    v = np.linalg.solve(A[4], y - B[0])
    return x - ALPHA * (E[0] - C[5].T @ v), y, v


def stocbio(x, y, memory):
    y = train(x, y, 4)[-1]
    terms = [y - B[0]]
    for i in range(3):
        terms.append(terms[-1] - RHO * A[4 + i] @ terms[-1])
    return x - ALPHA * (E[0] - C[7].T @ (RHO * sum(terms))), y, None


def pzobo(x, y, memory):
    end = train(x, y, 4)[-1]
    along = np.asarray(gaussian(KEY, jnp.asarray(x), 5))
    slopes = [(train(x + 0.01 * u, y, 4)[-1] - end) @ (end - B[0]) / 0.01 for u in along]
    return (
        x - ALPHA * (E[0] + np.mean([slope * u for slope, u in zip(slopes, along, strict=True)], axis=0)),
        end,
        None,
    )


def soba(x, y, v):
    v = np.zeros(Q) if v is None else v
    return (
        x - ALPHA * (E[0] - C[0].T @ v),
        y - RHO * (A[0] @ y + C[0] @ x),
        v - RHO * (A[0] @ v - (y - B[0])),
    )


def fsla(x, y, memory):
    v, d, last_x = memory or (np.zeros(Q), None, None)
    old_v = v
    y = y - RHO * (A[0] @ y + C[0] @ x)
    v = v - RHO * (A[1] @ v - (y - B[0]))
    fresh = E[1] - C[2].T @ v
    # The direction at the previous point reads the same minibatches; here it does not depend on x.
    d = fresh if d is None else fresh + 0.8 * (d - (E[1] - C[2].T @ old_v))
    return x - ALPHA * d, y, (v, d, x)


ALGORITHMS = {
    itd_bio: dict(inner_steps=4),
    aid_bio: dict(inner_steps=4, linear_solver=b.cg(3)),
    stocbio: dict(inner_steps=4, terms=3),
    pzobo: dict(inner_steps=4, directions=5),
    soba: {},
    fsla: dict(weight=0.2),
}


@pytest.mark.parametrize("reference", ALGORITHMS, ids=lambda function: function.__name__)
def test_every_minibatch_is_read_where_the_paper_reads_it(reference):
    factory = getattr(b, reference.__name__)
    algorithm = factory(PROBLEM, inner_optimizer=RHO, outer_optimizer=ALPHA, **ALGORITHMS[reference])
    state = algorithm.init(jnp.asarray(X), jnp.asarray(Y))
    x, y, memory = X, Y, None
    for _ in range(STEPS):
        state, metrics = algorithm.step(state, BATCH, KEY)
        x_before = x
        x, y, memory = reference(x, y, memory)
        # PZOBO divides the rounding errors of a difference of paths by 0.01.
        np.testing.assert_allclose(state.x, x, atol=1e-11)
        np.testing.assert_allclose(state.y, y, atol=1e-12)
    last = {"soba": 0}.get(reference.__name__, algorithm.draws.inner - 1)
    if last:
        want = PROBLEM.inner(x_before, y, (A[last], C[last]))
        assert metrics["inner_loss"] == pytest.approx(float(want), rel=1e-10)


def test_neumann_direction_reads_every_minibatch_once():
    oracle = b.neumann_direction(PROBLEM, b.neumann(3, RHO))
    terms = [Y - B[0]]
    for i in range(3):
        terms.append(terms[-1] - RHO * A[1 + i] @ terms[-1])
    got = oracle.evaluate(Point(jnp.asarray(X), jnp.asarray(Y), ()), BATCH, None).total
    np.testing.assert_allclose(got.x, E[0] - C[4].T @ (RHO * sum(terms)), rtol=1e-12)
    np.testing.assert_allclose(got.y, A[0] @ Y + C[0] @ X, rtol=1e-12)
    assert oracle.draws == b.Draws(1, 5)
