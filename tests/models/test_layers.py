"""Pooling against flax; normalisation with pooling against the two in sequence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.models.layers import BatchNorm, max_pool


@pytest.fixture
def _promotion_allowed():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_pooling_and_its_derivatives_equal_those_of_flax(size, key):
    values, first = jax.random.normal(key, (2, 2, *size, 4))

    def all_of(pool):
        def loss(values):
            return jnp.sum(pool(values) ** 3)

        def along(values):
            return jax.jvp(loss, (values,), (first,))[1]

        def product(values):
            return jnp.vdot(jax.grad(loss)(values), first)

        forward_over_reverse = jax.jvp(jax.grad(loss), (values,), (first,))
        return pool(values), *forward_over_reverse, jax.grad(along)(values), jax.grad(product)(values)

    def of_flax(values):
        return nn.max_pool(values, (2, 2), (2, 2))

    # Compiled: eager derivatives would compile every operation separately.
    ours, theirs = (jax.jit(lambda pool=pool: all_of(pool))() for pool in (max_pool, of_flax))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_the_first_of_equal_values_in_a_block_gets_the_derivative():
    slopes = jax.grad(lambda values: jnp.sum(max_pool(values)))(jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(slopes[0, :, :, 0], jnp.tile(jnp.array([[1.0, 0.0], [0.0, 0.0]]), (2, 2)))


def test_second_derivatives_of_pooling_have_no_paddings():
    def loss(values):
        return jnp.sum(max_pool(values) ** 3)

    def again(values):
        return jnp.sum(jax.grad(loss)(values) ** 2)

    values = jnp.ones((2, 4, 6, 3))
    assert "stablehlo.pad" not in jax.jit(jax.grad(again)).lower(values).as_text()
    # The test sees the paddings of a slice.
    assert "stablehlo.pad" in jax.jit(jax.grad(lambda values: loss(values[:, ::2]))).lower(values).as_text()


@pytest.mark.usefixtures("_promotion_allowed")
@pytest.mark.parametrize("first", [None, 2])
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_normalisation_with_pooling_equals_pooling_after_it(size, first, key):
    values, direction = jax.random.normal(key, (2, 3, *size, 4))
    # A negative scale reverses the order; at zero all pixels are equal.
    params = {"scale": jnp.array([1.3, -0.7, 1.0, 0.0]), "bias": jnp.array([0.2, -0.4, 0.0, 1.0])}

    def pooled(values, params):
        return BatchNorm(pool=True).apply({"params": params}, values, first)

    def plain(values, params):
        return max_pool(BatchNorm().apply({"params": params}, values, first))

    def all_of(function):
        def loss(values, params):
            return jnp.sum(jnp.sin(function(values, params)))

        def slope(t):
            moved = {name: (1 + t) * array for name, array in params.items()}
            return jax.grad(loss, (0, 1))(values + t * direction, moved)

        # The maximum of equal values is not differentiable with respect to the scale.
        scaled = {name: array[:3] for name, array in slope(0.0)[1].items()}
        return function(values, params), slope(0.0)[0], scaled, jax.jacfwd(slope)(0.0)[0]

    results = (jax.jit(lambda function=function: all_of(function))() for function in (pooled, plain))
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * (1 + float(jnp.abs(other).max())))
