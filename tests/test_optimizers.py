"""Tests of optax optimisers inside and outside: what they need, and finite derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as b
from bilevel.safe_derivatives import safely_differentiable

NOTHING = b.full(None, None)
Y = jnp.array([1.0, 0.5, 0.7])
X = jnp.array([0.3, 0.2])


def inner(x, y, batch):
    return 0.5 * jnp.sum((y[:2] - x) ** 2) + 0.05 * x[0] * jnp.sum(y[:2] ** 2)


def with_constant_feature(x, y, batch):
    return inner(x, y, batch) + 0 * y[2]


def flat_loss(x, y, batch):
    return 0 * x[0] * jnp.sum(y)


def outer(x, y, batch):
    return jnp.sum(y**2) + jnp.sum(x**2)


SHARED = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1),
    "nadam": optax.nadam(0.1),
    "lamb": optax.lamb(0.1),
    "rmsprop": optax.rmsprop(0.1),
    "adagrad": optax.adagrad(0.1),
    "adabelief": optax.adabelief(0.1),
    "adamax": optax.adamax(0.1),
    "lion": optax.lion(0.1),
    "clip": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
}
RESPONSES = {
    "unrolled": lambda problem, optimizer: b.unrolled(b.descend(problem, optimizer, 4)),
    "truncated": lambda problem, optimizer: b.unrolled(b.descend(problem, optimizer, 4, last=2)),
    "recompute": lambda problem, optimizer: b.unrolled(b.descend(problem, optimizer, 4, recompute=1)),
}


@pytest.fixture
def standard_promotion():
    # optax mixes integers and floats.
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("loss", [with_constant_feature, flat_loss])
@pytest.mark.parametrize("optimizer", SHARED)
def test_unrolled_gradient_is_finite_and_right_where_a_gradient_is_zero(optimizer, loss):
    problem = b.Problem(outer, loss)
    solver = b.descend(problem, SHARED[optimizer], 4)

    @jax.jit
    def both(x, step):
        def phi(x):
            return problem.outer(x, solver.solve(x, Y, NOTHING), None)

        differences = [(phi(x + d) - phi(x - d)) / (2 * step) for d in step * jnp.eye(2)]
        gradient, *_ = b.hypergradient(problem, b.unrolled(solver), x, Y, NOTHING, diagnose=False)
        return gradient, jnp.array(differences)

    gradient, want = both(X, 1e-6)
    np.testing.assert_allclose(gradient, want, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("response", RESPONSES)
def test_every_response_through_adam_is_finite_at_a_zero_gradient(response):
    problem = b.Problem(outer, with_constant_feature)
    built = RESPONSES[response](problem, optax.adam(0.1))
    assert np.isfinite(b.hypergradient(problem, built, X, Y, NOTHING, diagnose=False)[0]).all()


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("optimizer", ["adam", "lamb", "clip"])
def test_safe_derivatives_change_neither_values_nor_regular_derivatives(optimizer):
    plain, gradient = SHARED[optimizer], jnp.array([0.3, -0.2, 0.1])
    safe = safely_differentiable(plain)

    def moved(optimizer, gradient):
        return optimizer.update(gradient, optimizer.init(Y), Y)[0]

    np.testing.assert_array_equal(moved(safe, gradient), moved(plain, gradient))
    for derivative in (jax.jacrev, lambda function: jax.jacfwd(jax.jacrev(function))):
        got, want = (derivative(lambda g, o=o: moved(o, g))(gradient) for o in (safe, plain))
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-14)


VALUE = {
    "polyak": lambda: optax.polyak_sgd(0.5),
    "plateau": lambda: optax.chain(optax.sgd(0.2), optax.contrib.reduce_on_plateau(patience=50)),
    "lbfgs without search": lambda: optax.lbfgs(0.3, linesearch=None),
    "every second": lambda: optax.MultiSteps(optax.sgd(0.5), 2),
}
SEARCH = {
    "lbfgs": optax.lbfgs,
    "backtracking": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(20)),
}


def toy():
    """Return a problem with minimum 0 of both losses: y* = x, Phi(x) = |x - 1|^2 / 2."""
    return b.Problem(
        lambda x, y, batch: 0.5 * jnp.sum((y - 1) ** 2), lambda x, y, batch: 0.5 * jnp.sum((y - x) ** 2)
    )


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", [*VALUE, *SEARCH])
def test_inner_optimisers_that_read_the_loss_train_y(name):
    optimizer = (VALUE | SEARCH)[name]()
    problem = toy()
    response = b.implicit(problem, b.descend(problem, optimizer, 60), b.cg(2))
    gradient, y, info = b.hypergradient(problem, response, X, jnp.zeros(2), NOTHING)
    np.testing.assert_allclose(gradient, X - 1, atol=1e-4)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", [*VALUE, *SEARCH])
def test_outer_optimisers_that_read_the_loss_move_x(name):
    optimizer = (VALUE | SEARCH)[name]()
    algorithm = b.aid_bio(
        toy(), inner_optimizer=1.0, outer_optimizer=optimizer, inner_steps=1, linear_solver=b.cg(1)
    )
    state = b.run(algorithm, X, jnp.zeros(2), NOTHING, steps=60, key=jax.random.key(0), log_every=60).state
    np.testing.assert_allclose(state.x, 1, atol=1e-4)


@pytest.mark.usefixtures("standard_promotion")
def test_a_line_search_cannot_be_unrolled_and_says_so():
    response = b.unrolled(b.descend(toy(), optax.lbfgs(), 2))
    with pytest.raises(ValueError, match="loop of unknown length, such as a line search"):
        b.hypergradient(toy(), response, X, jnp.zeros(2), NOTHING)


@pytest.mark.usefixtures("standard_promotion")
def test_single_loops_give_the_value_and_refuse_a_line_search():
    algorithm = b.soba(toy(), inner_optimizer=0.3, outer_optimizer=optax.polyak_sgd(0.1))
    state = b.run(algorithm, X, jnp.zeros(2), NOTHING, steps=400, key=jax.random.key(0), log_every=400).state
    np.testing.assert_allclose(state.x, 1, atol=1e-2)
    searching = b.soba(toy(), outer_optimizer=optax.lbfgs())
    with pytest.raises(ValueError, match=r"searches along a line .* use `optax.lbfgs\(linesearch=None\)`"):
        searching.step(searching.init(X, jnp.zeros(2)), NOTHING, None)
    adjoint = b.soba(toy(), adjoint_optimizer=optax.polyak_sgd())
    with pytest.raises(ValueError, match="needs the value of a loss .* use a step size or another optimiser"):
        adjoint.step(adjoint.init(X, jnp.zeros(2)), NOTHING, None)


def test_an_error_inside_an_optimiser_is_not_taken_for_a_missing_loss():
    def update(updates, state, params=None):
        raise TypeError("a fault of its own")

    own = optax.GradientTransformation(lambda params: (), update)
    with pytest.raises(TypeError, match="^a fault of its own$"):
        b.move(own, X, (), X)
