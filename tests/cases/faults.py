"""Problems with a planted fault for `bilevel check`, each with the sentence that names it."""

import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bilevel as b
from bilevel.sampling import Full

NO_ROWS = {"responses": {}}
NOTHING = b.full(None, None)
ROWS = np.random.default_rng(0).normal(size=(12, 3))
TARGETS = ROWS @ np.array([1.0, -1.0, 0.5])
DATA = b.full((jnp.asarray(ROWS), jnp.asarray(TARGETS)), (jnp.asarray(ROWS), jnp.asarray(TARGETS)))


class Case(NamedTuple):
    """A problem, its variables and data, and the arguments of `check`."""

    problem: Any
    x: Any
    y: Any
    batch: b.Batch = NOTHING
    arguments: dict[str, Any] = {}


def error(y, batch):
    rows, targets = batch
    return jnp.mean((rows @ y - targets) ** 2)


RIDGE = b.Problem(
    lambda x, y, batch: error(y, batch), lambda x, y, batch: error(y, batch) + jnp.sum(jnp.exp(x) * y**2)
)


def solved(problem, rate=0.2, steps=120):
    return b.implicit(problem, b.descend(problem, rate, steps), b.cg(4))


def ridge(**responses):
    return Case(RIDGE, jnp.zeros(3), jnp.zeros(3), DATA, {"responses": responses})


WITHOUT_X = b.Problem(lambda x, y, d: error(y, d), lambda x, y, d: error(y, d))


def without_x(**responses):
    """Return a problem that does not read x, which has the shape of y."""
    return Case(WITHOUT_X, jnp.ones(3), jnp.ones(3), DATA, {"responses": responses})


def quadratic(H, **arguments):
    """Return a case with `g = y'H y / 2 - x'y`, f = |y - 1|^2 / 2 and x = 1."""
    H = jnp.asarray(H)
    problem = b.Problem(
        lambda x, y, batch: 0.5 * jnp.sum((y - 1) ** 2), lambda x, y, batch: 0.5 * y @ H @ y - x @ y
    )
    return Case(problem, jnp.ones(len(H)), jnp.zeros(len(H)), NOTHING, arguments)


def wrong_sign():
    right = solved(RIDGE)

    def respond(x, y0, batch, key):
        y, pullback = right.respond(x, y0, batch, key)

        def opposite(w, v):
            pulled = pullback(w, v)
            return pulled._replace(x=-pulled.x)

        return y, opposite

    return ridge(mine=right._replace(respond=respond))


def stale_forward():
    right = solved(RIDGE)
    old = b.Batch(DATA.outer, Full((jnp.asarray(ROWS + 0.5), jnp.asarray(TARGETS))))
    return ridge(mine=right._replace(respond=lambda x, y0, batch, key: right.respond(x, y0, old, key)))


def stale_pullback():
    right = solved(RIDGE)
    old = b.Batch(DATA.outer, Full((jnp.asarray(3 * ROWS), jnp.asarray(TARGETS))))

    def respond(x, y0, batch, key):
        y = right.respond(x, y0, batch, key)[0]
        slope = jax.grad(RIDGE.inner, argnums=1)

        def pullback(w, v):
            H = jax.jacobian(lambda y: slope(x, y, old.inner[0]))(y)
            adjoint = jnp.linalg.solve(H, w)
            cross = jax.vjp(lambda x: slope(x, y, old.inner[0]), x)[1](adjoint)[0]
            return b.Pulled(-cross, v, 0.0)

        return y, pullback

    return ridge(mine=right._replace(respond=respond))


def stale_loss():
    old = DATA.inner[0]
    problem = b.Problem(RIDGE.outer, lambda x, y, batch: RIDGE.inner(x, y, old))
    return Case(problem, jnp.zeros(3), jnp.zeros(3), DATA, {"responses": {}})


def random_loss():
    calls = itertools.count()
    problem = b.Problem(
        RIDGE.outer, lambda x, y, batch: RIDGE.inner(x, y, batch) * (1 + 0.1 * (next(calls) % 2))
    )
    return Case(problem, jnp.zeros(3), jnp.zeros(3), DATA, {"responses": {}})


def random_penalty():
    """Return a problem whose g is random only where y is not zero."""
    case = random_loss()
    calls = itertools.count()

    def inner(x, y, batch):
        return error(y, batch) + jnp.sum(jnp.exp(x) * y**2) * (1 + 0.1 * (next(calls) % 2))

    return case._replace(problem=b.Problem(RIDGE.outer, inner))


def oscillating(**arguments):
    """Return gradient descent on the root of an error with a step that ends in a cycle of two points."""
    problem = b.Problem(
        RIDGE.outer, lambda x, y, batch: jnp.sqrt(error(y, batch) + 0.3) + 0.01 * jnp.exp(x) * jnp.sum(y**2)
    )
    return Case(problem, jnp.array(0.0), jnp.zeros(3), DATA, arguments)


def oscillating_response(steps):
    case = oscillating()
    response = b.implicit(case.problem, b.descend(case.problem, 1.2, steps), b.cg(4))
    return case._replace(arguments={"responses": {"mine": response}})


def cut(between):
    """Return the ridge problem with a stop_gradient."""
    stop = jax.lax.stop_gradient

    def inner(x, y, batch):
        penalty = stop(jnp.exp(x["b"])) if between == "x and g" else jnp.exp(x["b"])
        y = stop(y) if between == "y and g" else y
        return error(y, batch) + jnp.sum(jnp.exp(x["a"]) * y**2) + jnp.sum(penalty * y**2)

    def outer(x, y, batch):
        return error(stop(y) if between == "y and f" else y, batch)

    x = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
    return Case(b.Problem(outer, inner), x, jnp.zeros(3), DATA, {"responses": {}})


def unconverged():
    problem = b.Problem(
        lambda x, y, batch: jnp.sum((y - 0.5) ** 2),
        lambda x, y, batch: (
            0.5 * jnp.sum((y - jnp.array([1.0, 2.0])) ** 2) + 0.5 * jnp.exp(x) * jnp.sum(y**2)
        ),
    )
    response = b.implicit(problem, b.descend(problem, 0.05, 3), b.cg(2))
    return Case(problem, jnp.array(0.3), jnp.zeros(2), NOTHING, {"responses": {"mine": response}})


def saddle():
    problem = b.Problem(
        lambda x, y, batch: jnp.sum((y - 2) ** 2),
        lambda x, y, batch: 0.25 * jnp.sum(y**4) - 0.5 * jnp.sum(y**2) + x * y[0] * y[1],
    )
    return Case(problem, jnp.array(0.5), jnp.zeros(2), NOTHING, {"responses": {"mine": solved(problem)}})


def projecting_optimizer():
    problem = b.Problem(
        lambda x, y, batch: jnp.sum((y - 3) ** 2), lambda x, y, batch: 0.5 * jnp.sum((y - x) ** 2)
    )
    step = b.descend(problem, 0.5, 1)

    def solve(x, y, batch):
        return jax.lax.fori_loop(0, 40, lambda i, y: jnp.clip(step.solve(x, y, batch), 0, 1), y)

    response = b.implicit(problem, step._replace(solve=solve), b.cg(4))
    x = jnp.concatenate([jnp.full(3, 2.0), jnp.full(7, 0.5)])
    return Case(problem, x, jnp.full(10, 0.2), NOTHING, {"responses": {"mine": response}})


def projected_problem():
    case = projecting_optimizer()
    plain = case.problem
    problem = replace(plain, inner_projection=lambda y: jnp.clip(y, 0, 1))
    return case._replace(problem=problem)


def nan_in_data():
    rows = ROWS.copy()
    rows[2, 1] = np.nan
    batch = b.full(DATA.outer[0], {"rows": jnp.asarray(rows), "targets": jnp.asarray(TARGETS)})
    problem = b.Problem(
        RIDGE.outer, lambda x, y, batch: error(y, (batch["rows"], batch["targets"])) + jnp.exp(x) @ y**2
    )
    return Case(problem, jnp.zeros(3), jnp.zeros(3), batch)


def nan_gradient():
    problem = b.Problem(
        RIDGE.outer, lambda x, y, batch: error(y["w"], batch) + jnp.sqrt(jnp.sum(y["w"] ** 2)) * x
    )
    outer = lambda x, y, batch: error(y["w"], batch)  # noqa: E731
    return Case(b.Problem(outer, problem.inner), jnp.array(1.0), {"w": jnp.zeros(3)}, DATA)


def in_float32():
    """Return a healthy case whose losses compute in float32 whatever they are given."""

    def inner(x, y, batch):
        return RIDGE.inner(x, y, batch).astype(jnp.float32)

    def low(loss):
        def lowered(x, y, batch):
            x, y, batch = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (x, y, batch))
            return loss(x, y, batch)

        return lowered

    problem = b.Problem(low(RIDGE.outer), low(inner))
    return Case(problem, jnp.zeros(3), jnp.zeros(3), DATA, {"responses": {"mine": solved(problem)}})


def unseen():
    """Return a case with one flat direction of g, which neither f nor the inner solver leaves."""
    problem = b.Problem(
        lambda x, y, batch: (y[0] + y[1] - 1) ** 2, lambda x, y, batch: 0.5 * (y[0] + y[1] - x) ** 2
    )
    return Case(problem, jnp.array(2.0), jnp.zeros(2), NOTHING, {"responses": {"mine": solved(problem)}})


FAULTS = {
    "wrong sign": (wrong_sign, "`mine` has the wrong sign"),
    "stale batch, forward": (
        stale_forward,
        "`mine` reads a stale batch: other inner data leave its y unchanged",
    ),
    "stale batch, pullback": (
        stale_pullback,
        "its pullback reads other data than it is given, such as a stale batch",
    ),
    "stale batch, loss": (stale_loss, "g reads a stale batch: it closes over an array of the shape (12,)"),
    "losses differ": (random_loss, "The losses differ between two calls: g gives"),
    "losses differ where y is not zero": (random_penalty, "The losses differ between two calls: g gives"),
    "oscillating": (
        lambda: oscillating_response(200),
        "The inner solve oscillates: lower the inner step size",
    ),
    "oscillating, odd": (
        lambda: oscillating_response(201),
        "The inner solve oscillates: lower the inner step size",
    ),
    "oscillating, usual responses": (
        lambda: oscillating(inner_optimizer=1.2, inner_steps=200),
        "The inner solve oscillates: lower the inner step size",
    ),
    "saddle, usual responses": (
        lambda: saddle()._replace(arguments={}),
        "The inner solve ends at a saddle of g",
    ),
    "stop_gradient, x to g": (
        lambda: cut("x and g"),
        "A stop_gradient lies between x and g: along a direction of x['b']",
    ),
    "stop_gradient, y to g": (lambda: cut("y and g"), "A stop_gradient lies between y and g"),
    "stop_gradient, y to f": (lambda: cut("y and f"), "A stop_gradient lies between y and f"),
    "stop_gradient, one of two paths": (
        lambda: Case(
            b.Problem(
                RIDGE.outer, lambda x, y, d: RIDGE.inner(x, y, d) + jnp.sum(jax.lax.stop_gradient(x) * y)
            ),
            jnp.ones(3),
            jnp.zeros(3),
            DATA,
            NO_ROWS,
        ),
        "A stop_gradient lies between x and g",
    ),
    "unconverged": (
        unconverged,
        "The inner problem is not solved: an implicit gradient may have the wrong sign.",
    ),
    "unconverged, usual responses": (
        lambda: ridge()._replace(arguments={"inner_optimizer": 0.01, "inner_steps": 5}),
        "The inner problem is not solved: an implicit gradient may have the wrong sign.",
    ),
    "saddle": (saddle, "The inner solve ends at a saddle of g"),
    "indefinite": (
        lambda: quadratic(np.diag([1.0, 0.5, -0.6]), responses={}),
        "The inner Hessian is indefinite (smallest eigenvalue about -0.6): use damping 0.7, or unroll.",
    ),
    "indefinite, usual responses": (
        lambda: quadratic(np.diag([1.0, 0.5, -0.6])),
        "The inner Hessian is indefinite (smallest eigenvalue about -0.6): use damping 0.7, or unroll.",
    ),
    "singular": (
        lambda: quadratic(np.ones((2, 2)), responses={}),
        "The inner Hessian is singular (smallest eigenvalue about 0)",
    ),
    "f without y": (
        lambda: Case(
            b.Problem(lambda x, y, d: jnp.sum(x**2), RIDGE.inner), jnp.ones(3), jnp.zeros(3), DATA, NO_ROWS
        ),
        "f does not depend on y.",
    ),
    "g without x": (
        lambda: Case(
            b.Problem(lambda x, y, d: jnp.sum((y - x) ** 2), lambda x, y, d: error(y, d)),
            jnp.ones(3),
            jnp.zeros(3),
            DATA,
            NO_ROWS,
        ),
        "g does not depend on x.",
    ),
    "x is the start": (
        lambda: without_x(
            implicit=b.implicit(WITHOUT_X, b.descend(WITHOUT_X, 0.2, 5), b.cg(3)),
            unrolled=b.unrolled(b.descend(WITHOUT_X, 0.2, 5), start=lambda x: x),
        ),
        "x is the start: implicit responses return zero.",
    ),
    "x is not read": (
        without_x,
        "g does not depend on x. Does g read x? If x is the start of y: unrolled(solver, start=lambda x: x).",
    ),
    "projecting optimiser": (
        projecting_optimizer,
        "The inner optimiser projects, and 3 of 10 constraints are active",
    ),
    "projected inner problem": (
        projected_problem,
        "The inner optimiser projects, and 3 of 10 constraints are active",
    ),
    "NaN in the data": (nan_in_data, "The inner data contain NaN in ['rows']"),
    "NaN in a gradient": (nan_gradient, "The gradient of g is not finite in y['w'] at the start"),
    "f is NaN at the inner solution": (
        lambda: Case(
            b.Problem(lambda x, y, d: jnp.sum(jnp.log(y)), lambda x, y, d: 0.5 * jnp.sum((y - x) ** 2)),
            jnp.full(2, -1.0),
            jnp.ones(2),
            arguments=NO_ROWS,
        ),
        "f is nan at the inner solution, though it is finite at the start",
    ),
    "diverging inner solver": (
        lambda: ridge(mine=b.implicit(RIDGE, b.descend(RIDGE, 1e3, 200), b.cg(3))),
        "The y of `mine` is not finite: lower the inner step size below",
    ),
    "NaN at inner step 3": (
        lambda: Case(
            b.Problem(
                lambda x, y, d: jnp.sum(y["w"]),
                lambda x, y, d: jnp.sum(
                    jnp.exp(x) * (y["w"] - 2) ** 2 - 0.01 * jnp.sqrt(1 - y["w"]) + y["v"] ** 2
                ),
            ),
            jnp.array(0.0),
            {"v": jnp.ones(1), "w": jnp.array([-1.0])},
            NOTHING,
            {"inner_optimizer": 0.25, "inner_steps": 20},
        ),
        "The inner solve is not finite from inner step 3 on, first in y['w']",
    ),
    "linear solve too short": (
        lambda: quadratic(
            np.diag([1.0, 0.1, 0.01]),
            responses={
                "mine": b.implicit(
                    quadratic(np.diag([1.0, 0.1, 0.01])).problem,
                    b.descend(quadratic(np.diag([1.0, 0.1, 0.01])).problem, optax.sgd(1.8, 0.5), 2000),
                    b.richardson(2, 1.0),
                )
            },
        ),
        "The linear system of `mine` is not solved",
    ),
    "first order": (
        lambda: ridge(mine=b.first_order(b.descend(RIDGE, 0.2, 120))),
        "`mine` ignores how y depends on x",
    ),
}

HEALTHY = {
    "ridge": lambda: ridge(mine=solved(RIDGE)),
    "ridge, usual responses": lambda: ridge()._replace(arguments={}),
    "unrolled to convergence": lambda: ridge(mine=b.unrolled(b.descend(RIDGE, 0.2, 120))),
    "quadratic": lambda: quadratic(np.diag([1.0, 0.5, 0.1])),
    "stationary point of f(x, y*(x))": lambda: Case(
        b.Problem(
            lambda x, y, d: jnp.sum((y - 3) ** 2) + 0.1 * jnp.sum(x**2),
            lambda x, y, d: 0.5 * jnp.sum(jnp.array([1.0, 0.5]) * (y - x) ** 2),
        ),
        jnp.full(2, 3 / 1.1),
        jnp.zeros(2),
    ),
    "losses in float32": lambda: in_float32(),
    "singular, but f does not see it": lambda: unseen(),
    "y starts at zero, x at zero": lambda: Case(
        b.Problem(lambda x, y, d: jnp.sum((y - 1) ** 2), lambda x, y, d: 0.5 * jnp.sum((y - x**2 - x) ** 2)),
        jnp.zeros(2),
        jnp.zeros(2),
    ),
}


def findings(case, **more):
    """Return the findings of a case."""
    return b.check(case.problem, case.x, case.y, case.batch, **case.arguments, curves=False, **more).findings
