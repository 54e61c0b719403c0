"""Batch normalisation with pooling against the two one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.models.layers import BatchNorm, max_pool


@pytest.fixture(autouse=True)
def _layers_promote():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("first", [None, 2])
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_pooling_within_the_normalisation_equals_pooling_after_it(size, first, key):
    values, direction = jax.random.normal(key, (2, 3, *size, 4))
    # A scale below zero turns the order around; at zero all pixels are alike.
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

        # The greatest of equal values is not differentiable by the scale.
        scaled = {name: array[:3] for name, array in slope(0.0)[1].items()}
        return function(values, params), slope(0.0)[0], scaled, jax.jacfwd(slope)(0.0)[0]

    for one, other in zip(*map(jax.tree.leaves, (all_of(pooled), all_of(plain))), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * (1 + float(jnp.abs(other).max())))
