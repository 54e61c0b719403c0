"""Models and optimisers of users: plain functions, Flax, Equinox, optax."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bilevel as b
from bilevel import tasks
from cases.problems import unread

RNG = np.random.default_rng(0)
FEATURES = jnp.asarray(RNG.normal(size=(40, 3)))
TARGETS = jnp.tanh(FEATURES @ jnp.asarray([1.0, -2.0, 0.5]))
NOISY = TARGETS.at[::2].add(2.0)


def plain():
    def predict(y, features):
        return jnp.tanh(features @ y["first"]) @ y["second"]

    return predict, {"first": jnp.asarray(0.5 * RNG.normal(size=(3, 4))), "second": jnp.full(4, 0.5)}


def flax_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 4, rngs=rngs, param_dtype=jnp.float64)
            self.second = nnx.Linear(4, 1, rngs=rngs, param_dtype=jnp.float64)

        def __call__(self, features):
            return self.second(nnx.tanh(self.first(features)))[:, 0]

    definition, state = nnx.split(Net(nnx.Rngs(0)))
    return lambda y, features: nnx.merge(definition, y)(features), state


def flax_linen():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, features):
            hidden = nn.tanh(nn.Dense(4, param_dtype=jnp.float64)(features))
            return nn.Dense(1, param_dtype=jnp.float64)(hidden)[:, 0]

    return Net().apply, Net().init(jax.random.key(0), FEATURES)


def equinox():
    model = eqx.nn.MLP(3, "scalar", 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    return lambda y, features: jax.vmap(eqx.combine(y, static))(features), arrays


MODELS = {"plain": plain, "nnx": flax_nnx, "linen": flax_linen, "equinox": equinox}


@pytest.mark.parametrize("name", MODELS)
def test_any_model_learns_row_weights_that_find_the_corrupted_half(name, key):
    # Layer libraries promote ranks and dtypes.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        predict, y = MODELS[name]()

        def inner(x, y, batch):
            features, targets = batch
            losses = (predict(y, features) - targets) ** 2
            return jnp.mean(jax.nn.sigmoid(x) * losses) + 1e-3 * optax.tree.norm(y, squared=True)

        def outer(x, y, batch):
            features, targets = batch
            return jnp.mean((predict(y, features) - targets) ** 2)

        problem = b.Problem(outer, inner)
        algorithm = b.itd_bio(
            problem,
            inner_optimizer=optax.adam(0.05, eps_root=1e-8),
            outer_optimizer=optax.adam(0.3),
            inner_steps=10,
        )
        data = b.full((FEATURES, TARGETS), (FEATURES, NOISY))
        result = b.run(algorithm, jnp.zeros(40), y, data, steps=60, key=key, log_every=60)
    weights = jax.nn.sigmoid(result.state.x)
    assert weights[::2].mean() < weights[1::2].mean() - 0.2


OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate / 20, momentum=0.9, nesterov=True),
    "adamw": lambda rate: optax.adamw(rate, weight_decay=1e-5, eps_root=1e-8),
    "rmsprop": lambda rate: optax.rmsprop(rate / 2, eps=1e-3),
    "schedule": lambda rate: optax.sgd(optax.exponential_decay(rate, 200, 0.9)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optax_optimiser_at_both_levels(name, key):
    task = tasks.quadratic(rows=50, outer_dim=4, inner_dim=6, condition=3)
    x, y = task.start(key)
    with jax.numpy_dtype_promotion("standard"):
        for factory in (b.soba, b.aid_bio):
            algorithm = factory(
                task.problem,
                inner_optimizer=OPTIMIZERS[name](0.2),
                outer_optimizer=OPTIMIZERS[name](task.outer_step),
            )
            result = b.run(algorithm, x, y, task.data, steps=600, key=key, log_every=600)
            before, after = (task.metrics(v, None, task.held)["suboptimality"] for v in (x, result.state.x))
            assert after < 0.5 * before


def test_a_solver_inside_a_larger_program(key):
    """Use y*(x) as one layer, differentiated twice, vmapped over tasks."""
    ridge = b.Problem(
        unread, lambda x, y, batch: jnp.mean((batch[0] @ y - batch[1]) ** 2) + jnp.exp(x) * jnp.sum(y**2)
    )
    fit = b.solution(b.implicit(ridge, b.descend(ridge, 0.1, 300), b.cg(3)))

    def validation(x, shift):
        y = fit(x, jnp.zeros(3), b.full(None, (FEATURES, TARGETS + shift)))
        return jnp.mean((FEATURES @ y - TARGETS) ** 2)

    def closed_form(x, shift):
        gram = FEATURES.T @ FEATURES / 40 + jnp.exp(x) * jnp.eye(3)
        y = jnp.linalg.solve(gram, FEATURES.T @ (TARGETS + shift) / 40)
        return jnp.mean((FEATURES @ y - TARGETS) ** 2)

    shifts = jnp.array([0.0, 0.5, 1.0])
    for derivative in (jax.grad, lambda f: jax.jacrev(jax.grad(f))):
        got = jax.jit(jax.vmap(derivative(validation), in_axes=(None, 0)))(-1.0, shifts)
        want = jax.vmap(derivative(closed_form), in_axes=(None, 0))(-1.0, shifts)
        np.testing.assert_allclose(got, want, rtol=1e-8)


def test_a_whole_equinox_module_works_as_y():
    model = eqx.nn.MLP(3, "scalar", 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    rows = jax.random.normal(jax.random.key(1), (6, 3))

    def loss(x, y, batch):
        return jnp.mean((jax.vmap(y)(rows) - x) ** 2) + 0.1 * jnp.sum(y.layers[0].weight ** 2)

    def partitioned(x, y, batch):
        return loss(x, eqx.combine(y, static), batch)

    x, data, key = jnp.array(0.3), b.full(None, None), jax.random.key(0)
    ends = []
    for function, y in ((loss, model), (partitioned, arrays)):
        problem = b.Problem(function, function)
        response = b.implicit(problem, b.descend(problem, 0.1, 5), b.cg(3))
        gradient, trained, _ = b.hypergradient(problem, response, x, y, data)
        fit = b.solution(response)
        slope = jax.grad(lambda x, y=y, fit=fit: fit(x, y, data).layers[0].bias.sum())(x)
        state = b.run(b.soba(problem), x, y, data, steps=5, key=key).state
        ends.append((gradient, trained, slope, state.y))
        if y is model:
            assert jnp.isfinite(trained(rows[0])) and jnp.isfinite(state.y(rows[0]))
    for whole, parts in zip(*ends, strict=True):
        leaves = jax.tree.leaves(eqx.filter(whole, eqx.is_array)), jax.tree.leaves(parts)
        for one, other in zip(*leaves, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


def test_the_settings_of_a_whole_module_stay_as_they_are():
    class Halved(eqx.Module):
        layer: eqx.nn.Linear
        dropout: eqx.nn.Dropout

    model = Halved(eqx.nn.Linear(2, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.5))
    rows = jax.random.normal(jax.random.key(1), (6, 2))

    def loss(x, y, batch):
        return jnp.mean((jax.vmap(y.layer)(rows)[:, 0] * y.dropout.p - x) ** 2)

    problem, x, data, key = b.Problem(loss, loss), jnp.array(0.3), b.full(None, None), jax.random.key(0)
    algorithm = b.soba(problem)
    ends = [b.run(algorithm, x, model, data, steps=5, key=key).state]
    ends.append(b.advance(algorithm, algorithm.init(x, model), data, key, start=0, steps=5))
    for state in ends:
        assert state.y.dropout.p == 0.5 and jnp.any(state.y.layer.weight != model.layer.weight)
    assert jnp.isfinite(b.certificate(problem, x, model, data).gradient_norm)


def test_projections_see_a_whole_module():
    model = eqx.nn.MLP(3, "scalar", 4, 1, activation=jnp.tanh, key=jax.random.key(0))

    def halved(y):
        assert y.activation is model.activation
        return jax.tree.map(lambda leaf: jnp.clip(leaf, -0.1, 0.1) if eqx.is_array(leaf) else leaf, y)

    def loss(x, y, batch):
        return (y(jnp.ones(3)) - x) ** 2

    problem = b.Problem(loss, loss, inner_projection=halved)
    state = b.run(
        b.soba(problem), jnp.array(0.3), model, b.full(None, None), steps=2, key=jax.random.key(0)
    ).state
    assert jnp.max(jnp.abs(state.y.layers[0].weight)) <= 0.1


def test_a_variable_whose_every_leaf_would_stay_fixed_is_refused():
    problem = b.Problem(lambda x, y, batch: y**2, lambda x, y, batch: (y - x["rate"]) ** 2)
    with pytest.raises(ValueError, match="x must hold a floating-point array, but all of it stays fixed"):
        b.soba(problem).init({"rate": 0.5, "name": "decay"}, jnp.zeros(()))
