"""Problems of the FSLA entries."""

import jax.numpy as jnp
import numpy as np

from bilevel_claims.fsla.least_squares import least_squares


def test_least_squares_has_known_answers():
    squares = least_squares()
    np.testing.assert_allclose([squares.inner_top, squares.outer_top], [2.588901, 2.31954], rtol=1e-6)
    slope = squares.curvature @ (jnp.ones(5) - squares.best)
    known = [1.13373010, 1.19158515, 1.18113616, 1.17956635, 1.18730947]
    np.testing.assert_allclose(slope, known, rtol=1e-6)
