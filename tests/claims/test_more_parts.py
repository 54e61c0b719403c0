"""Parts that several entries of `bilevel reproduce` share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import run, tasks
from bilevel.algorithms import soba
from bilevel.combinators import power
from bilevel_claims.noisy_images import RIGHT_ONLY, UNCLEANED, noisy_images
from bilevel_claims.problems import logistic_ridge
from bilevel_claims.schedules import falling, scheduled
from bilevel_claims.search import chosen
from bilevel_claims.types import Search


def last_of(algorithm):
    task = tasks.quadratic()
    x, y = task.start(jax.random.key(0))
    return run(algorithm(task.problem), x, y, task.data(8), steps=20, key=jax.random.key(1)).state


def test_falling_steps_are_those_of_an_optax_schedule():
    def ours(problem):
        return falling(lambda **rates: soba(problem, **rates), inner_optimizer=0.1, outer_optimizer=0.01)

    def optax_s(problem):
        schedules = {"inner_optimizer": power(0.5, scale=0.1), "outer_optimizer": power(0.5, scale=0.01)}
        return soba(problem, **schedules)

    for one, two in zip(*((s.x, s.y) for s in map(last_of, (ours, optax_s))), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)


def test_a_schedule_that_never_changes_is_the_algorithm_itself():
    rates = {"inner_optimizer": 0.1, "outer_optimizer": 0.01}

    def ours(problem):
        return scheduled(lambda **rates: soba(problem, **rates), lambda x, count: rates)

    np.testing.assert_array_equal(last_of(ours).x, last_of(lambda problem: soba(problem, **rates)).x)


def test_the_lowest_phi_is_below_that_of_a_thousand_gradient_steps():
    ridge = logistic_ridge(40, 4)
    held = ridge.train, ridge.valid

    def step(x, _):
        return x - 0.5 * ridge.exact(x, held).gradient, None

    x = jax.lax.scan(step, jnp.full(4, -2.0), length=1000)[0]
    assert ridge.lowest(np.full(4, -2.0)) <= float(ridge.exact(x, held).loss) + 1e-9


def test_trials_are_chosen_anew_by_other_scores():
    search = Search("a", {"rate": (0.1, 0.2, 0.3)}, np.zeros(3), {}, (), "loss", "1 step")
    again = chosen(search, np.array([2.0, np.nan, 1.0]))
    assert again.best == {"rate": 0.3} and again.edge == ("rate",) and again.scores[1] == np.inf
    with pytest.raises(ArithmeticError, match="no trial of a ended well"):
        chosen(search, np.full(3, np.nan))


def test_noisy_images_have_as_many_new_labels_as_told_and_tell_the_wrong_ones():
    images = noisy_images("digits", rows=600, valid_rows=200, test_rows=300, batch_size=20)
    wrong = np.asarray(images.setting.held["wrong"])
    # Half drawn anew, a tenth of these right by chance: 270 wrong, three standard deviations are 16.
    assert abs(wrong.sum() - 270) < 16
    assert images.references[RIGHT_ONLY] < images.references[UNCLEANED] < 0.5
