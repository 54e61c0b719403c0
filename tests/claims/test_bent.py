"""The one-dimensional tasks of the UFO-BLO entries."""

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_claims.ufo_blo.bent import bent_tasks, counterexample


@pytest.mark.parametrize("level, settled", [(0.01, 2.35105), (0.06, 5.75887), (1.0, 23.51048)])
def test_slope_where_first_order_steps_settle_is_the_root_of_twice_the_level(level, settled):
    toy = counterexample(level)
    stuck, best = toy.limits()
    assert stuck == pytest.approx(settled, abs=1e-5)
    o, e = toy.slopes(jnp.asarray(stuck))
    assert abs(float(o.mean())) < 1e-12
    assert abs(float(e.mean())) == pytest.approx((2 * level) ** 0.5, abs=1e-12)
    assert abs(float(toy.slopes(jnp.asarray(best))[1].mean())) < 1e-12


def test_moments_of_the_second_toy_are_those_of_numpy():
    moments = bent_tasks((0.5, 1.5), (0.0, 10.0), 400.0, 0.01).moments(np.linspace(-50, 50, 1001))
    np.testing.assert_allclose(moments, (2229.32, 53.212), rtol=1e-4)
