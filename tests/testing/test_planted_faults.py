"""Every check of `bilevel.testing` fails on an implementation with one planted fault."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax

import bilevel as b
from bilevel import testing
from bilevel.response import Pulled
from bilevel.types import Point

tree = optax.tree


def negative(values):
    return tree.scale(-1, values)


# Linear solvers


def with_solution(change, solver=None):
    """Return conjugate gradients with a change of what `solve` returns: `change(v, residual)`."""
    solver = solver or b.cg(3)

    def solve(operator, right, v0, key=None):
        return change(*solver.solve(operator, right, v0, key))

    return solver._replace(solve=solve)


def start_at_one(operator, right, v0, key=None):
    return b.cg(1).solve(operator, right, tree.ones_like(right) if v0 is None else v0, key)


LINEAR = {
    "wrong sign": (with_solution(lambda v, residual: (negative(v), residual)), "residual must be"),
    "wrong solution": (b.cg(1), "v must be the solution"),
    "wrong residual": (with_solution(lambda v, residual: (v, 0.5 + residual)), "residual must be"),
    "residual as a vector": (with_solution(lambda v, r: (v, jnp.stack([r]))), "must be a scalar"),
    "wrong structure": (with_solution(lambda v, residual: (v["p"], residual)), "v must be shaped like b"),
    "wide dtype": (
        with_solution(lambda v, r: (jax.tree.map(lambda leaf: leaf.astype(jnp.float64), v), r)),
        "v must be shaped like b",
    ),
    "too few draws": (b.richardson(60, 1.0, fresh=True)._replace(draws=59), "as draws says"),
    "wrong products": (b.cg(3)._replace(products=3), "products of one solve from v0=a point"),
    "wrong start_products": (b.cg(3)._replace(start_products=0), "products of one solve from v0=None"),
    "None is not zero": (b.cg(1)._replace(solve=start_at_one), "v0=None must mean zero"),
    "no derivative": (
        with_solution(lambda v, residual: (lax.stop_gradient(v), residual)),
        "derivative of v in b",
    ),
}


@pytest.mark.parametrize("fault", LINEAR)
def test_a_faulty_linear_solver_fails(fault):
    solver, line = LINEAR[fault]
    with pytest.raises(AssertionError, match=line):
        testing.check_linear_solver(solver)


# Inner solvers


def ascend(problem):
    return b.descend(problem, -0.5, 5)


def detached(problem):
    solver = b.descend(problem, 0.5, 5)
    return solver._replace(solve=lambda x, y0, batch: lax.stop_gradient(solver.solve(x, y0, batch)))


def replaced(**fields):
    return lambda problem: b.descend(problem, 0.5, 5)._replace(**fields)


INNER = {
    "wrong sign": (ascend, "training must reduce"),
    "too few draws": (replaced(draws=4), "as draws says"),
    "wrong cost": (replaced(cost=b.Cost(gradients=4)), "oracle calls of one solve:"),
    "wrong back_cost": (replaced(back_cost=b.Cost(0, 5, 4)), "one solve and one reverse pass"),
    "no derivative": (detached, "must be the derivative of the path"),
    "truncated derivative": (
        lambda problem: b.descend(problem, 0.5, 5, last=2),
        "must be the derivative of the path",
    ),
}


@pytest.mark.parametrize("fault", INNER)
def test_a_faulty_inner_solver_fails(fault):
    make, line = INNER[fault]
    with pytest.raises(AssertionError, match=line):
        testing.check_inner_solver(make)


# Responses


def exact(problem):
    return b.implicit(problem, b.descend(problem, 1.0, 40), b.cg(3))


def with_pulled(change):
    def make(problem):
        response = exact(problem)

        def respond(x, y0, batch, key):
            y, pullback = response.respond(x, y0, batch, key)
            return y, lambda w, v: change(pullback(w, v))

        return response._replace(respond=respond)

    return make


RESPONSES = {
    "wrong sign": (
        with_pulled(lambda pulled: pulled._replace(x=negative(pulled.x))),
        "derivative of the inner solution",
    ),
    "no adjoint": (with_pulled(lambda pulled: Pulled(pulled.x, (), 0.0)), "carried adjoint"),
    "unconverged": (
        lambda problem: b.implicit(problem, b.descend(problem, 1.0, 2), b.cg(3)),
        "y must be the inner solution",
    ),
    "first order": (
        lambda problem: b.first_order(b.descend(problem, 1.0, 40)),
        "derivative of the inner solution",
    ),
    "too few draws": (lambda problem: exact(problem)._replace(draws=41), "as draws says"),
    "wrong cost": (lambda problem: exact(problem)._replace(cost=b.Cost(40, 3, 1)), "oracle calls of respond"),
}


@pytest.mark.parametrize("fault", RESPONSES)
def test_a_faulty_response_fails(fault):
    make, line = RESPONSES[fault]
    with pytest.raises(AssertionError, match=line):
        testing.check_response(make)


def test_a_response_whose_y_is_a_constant_fails_unless_documented_so():
    def make(problem):
        response = exact(problem)

        def respond(x, y0, batch, key):
            y, pullback = response.respond(x, y0, batch, key)
            return lax.stop_gradient(y), pullback

        return response._replace(respond=respond)

    with pytest.raises(AssertionError, match="derivative of y must follow the pullback"):
        testing.check_response(make)
    testing.check_response(make, differentiable=False)


# Oracles


def with_terms(change):
    def make(problem):
        oracle = b.implicit_direction(problem)

        def evaluate(point, batch, key):
            return change(oracle.evaluate(point, batch, key))

        return oracle._replace(evaluate=evaluate)

    return make


def flipped(name, level):
    """Return the terms with the opposite sign of one variable at one level."""

    def change(terms):
        part = getattr(terms, level)
        return terms._replace(**{level: part._replace(**{name: negative(getattr(part, name))})})

    return with_terms(change)


ORACLES = {
    "wrong sign of y": (flipped("y", "inner"), "y and v must converge"),
    "wrong sign of v": (flipped("v", "outer"), "linear residual must vanish"),
    "wrong sign of x": (flipped("x", "inner"), "direction of x must be the hypergradient"),
    "terms in the wrong half": (
        with_terms(lambda terms: terms._replace(outer=terms.total, inner=tree.zeros_like(terms.inner))),
        "outer terms must not depend on the inner minibatches",
    ),
    "inner terms read f": (
        with_terms(lambda terms: terms._replace(inner=terms.total, outer=tree.zeros_like(terms.outer))),
        "inner terms must not depend on the outer minibatch",
    ),
    "too few draws": (
        lambda problem: b.neumann_direction(problem, b.neumann(40, 1.0))._replace(draws=b.Draws(1, 41)),
        "as draws says",
    ),
    "wrong cost": (
        lambda problem: b.implicit_direction(problem)._replace(cost=b.Cost(1, 1, 1)),
        "oracle calls of one evaluation",
    ),
}


@pytest.mark.parametrize("fault", ORACLES)
def test_a_faulty_oracle_fails(fault):
    make, line = ORACLES[fault]
    with pytest.raises(AssertionError, match=line):
        testing.check_oracle(make)


# Estimators


def with_update(change, estimator=None):
    """Return `storm` with a change of what `update` returns: `change(direction, state, terms)`."""
    estimator = estimator or b.storm(0.3)

    def update(oracle, state, point, batch, key):
        return change(*estimator.update(oracle, state, point, batch, key))

    return estimator._replace(update=update)


def growing():
    def update(oracle, state, point, batch, key):
        terms = oracle(point, batch)
        return terms.total, (state, point), terms

    return b.plain()._replace(update=update)


def single(point):
    return Point(*(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), part) for part in point))


ESTIMATORS = {
    "wrong sign": (
        with_update(lambda d, state, terms: (negative(d), state, terms)),
        "must equal the direction of the oracle",
    ),
    "momentum lags": (b.momentum(0.5), "must equal the direction of the oracle"),
    "wrong terms": (
        with_update(lambda d, state, terms: (d, state, terms._replace(outer=terms.inner))),
        "must equal the terms of the oracle",
    ),
    "wrong calls": (b.storm(0.3)._replace(calls=1), "oracle calls of one update"),
    "growing state": (growing(), "new state must be shaped like the old one"),
    "narrow direction": (
        with_update(lambda d, state, terms: (single(d), state, terms)),
        "direction must be shaped like the point",
    ),
}


@pytest.mark.parametrize("fault", ESTIMATORS)
def test_a_faulty_estimator_fails(fault):
    estimator, line = ESTIMATORS[fault]
    with pytest.raises(AssertionError, match=line):
        testing.check_estimator(estimator)
