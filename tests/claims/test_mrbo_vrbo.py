"""Problems of the MRBO and VRBO entry."""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import itd_bio
from bilevel_claims.mrbo_vrbo.averages import averages


def test_the_gradient_of_the_averages_is_that_of_a_long_solve():
    toy = averages()
    x, y = jnp.linspace(-1, 1, 8), jnp.zeros(8)
    algorithm = itd_bio(toy.problem, inner_optimizer=0.9, outer_optimizer=1.0, inner_steps=100)
    moved = jax.jit(lambda state: algorithm.step(state, toy.data(None), None)[0])(algorithm.init(x, y)).x
    np.testing.assert_allclose(x - moved, toy.gradient(x, (toy.outer, toy.inner)), rtol=1e-10)
