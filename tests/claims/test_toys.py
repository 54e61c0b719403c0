"""Problems that entries of `bilevel reproduce` share: the bent toy tasks and few-shot drawings."""

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.datasets.errors import DataNotFoundError
from bilevel_claims.bent import bent_tasks, counterexample
from bilevel_claims.few_shot import omniglot, tasks_of


@pytest.mark.parametrize("level, settled", [(0.01, 2.35105), (0.06, 5.75887), (1.0, 23.51048)])
def test_slope_where_first_order_steps_settle_is_the_root_of_twice_the_level(level, settled):
    toy = counterexample(level)
    stuck, best = toy.limits()
    assert stuck == pytest.approx(settled, abs=1e-5)
    o, e = toy.slopes(jnp.asarray(stuck))
    assert abs(float(o.mean())) < 1e-12
    assert abs(float(e.mean())) == pytest.approx((2 * level) ** 0.5, abs=1e-12)
    assert abs(float(toy.slopes(jnp.asarray(best))[1].mean())) < 1e-12


def test_moments_of_the_second_toy_are_those_of_the_notes():
    moments = bent_tasks((0.5, 1.5), (0.0, 10.0), 400.0, 0.01).moments(np.linspace(-50, 50, 1001))
    np.testing.assert_allclose(moments, (2229.32, 53.212), rtol=1e-4)


def test_tasks_draw_apart_characters_and_drawings():
    drawings = np.arange(8 * 20 * 3).reshape(8, 20, 3)
    tasks = tasks_of(drawings, 50, 0)
    assert tasks.shape == (50, 5, 10, 3)
    number = tasks[..., 0] // 3
    assert all(len(set(task.ravel())) == 50 for task in number)
    characters = number // 20
    assert (characters == characters[..., :1]).all() and len(np.unique(characters)) == 8


def test_missing_drawings_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path))
    with pytest.raises(DataNotFoundError, match="there is no omniglot.npz in .*, which BILEVEL_DATA names"):
        omniglot()
