"""Problems that entries of several papers share, against exact answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bilevel.combinators import NestedState
from bilevel.datasets import Dataset
from bilevel.datasets.errors import DataNotFoundError
from bilevel_claims.problems import image_tasks
from bilevel_claims.problems.characters import drawings, tasks_of
from bilevel_claims.problems.noisy_images import RIGHT_ONLY, UNCLEANED, noisy_images
from bilevel_claims.problems.ridge import logistic_ridge
from bilevel_claims.problems.trusted_images import trusted_images
from cases.problems import logistic_case


@pytest.mark.parametrize("direct", [False, True])
def test_the_logistic_problem_is_the_test_case(direct):
    ridge, case = logistic_ridge(direct=0.05 * direct), logistic_case(direct)
    exact = jax.jit(ridge.exact)(case.x, (ridge.train, ridge.valid))
    y, gradient = case.exact(case.x)
    np.testing.assert_allclose(exact.y, y, atol=1e-12)
    np.testing.assert_allclose(exact.gradient, gradient, atol=1e-12)


@pytest.mark.slow
def test_the_lowest_phi_is_below_that_of_a_thousand_gradient_steps():
    ridge = logistic_ridge(40, 4)
    held = ridge.train, ridge.valid

    def step(x, _):
        return x - 0.5 * ridge.exact(x, held).gradient, None

    x = jax.lax.scan(step, jnp.full(4, -2.0), length=1000)[0]
    assert ridge.lowest(np.full(4, -2.0)) <= float(ridge.exact(x, held).loss) + 1e-9


@pytest.mark.slow
def test_the_auc_of_the_weights_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    images, labels = random.random((300, 4, 4), np.float32), random.integers(0, 3, 300).astype(np.int32)
    source = Dataset("made", images, labels, ["a", "b", "c"], images[:50], labels[:50])
    task = trusted_images(source, rows=100, trusted_rows=50, test_rows=40, noise=0.3)
    wrong = np.asarray(task.training["labels"] != labels[:100])
    assert wrong.sum() == 30 and task.trusted["labels"].shape == (50,)
    # Rounded, so that some are equal.
    start = task.start(None)
    state = NestedState(jnp.asarray(random.normal(size=100).round(1)), start[1], (), (), ())
    found = task.measure(state, task.held)
    assert found["AUC"] == pytest.approx(roc_auc_score(~wrong, state.x), rel=1e-12)
    assert found["test loss"] == pytest.approx(np.log(3), rel=1e-12)


def test_half_of_the_noisy_images_get_a_random_label():
    images = noisy_images("digits", rows=600, valid_rows=200, test_rows=300, batch_size=20)
    wrong = np.asarray(images.experiment.held["wrong"])
    # 300 random labels, of which a tenth is right by chance: 270 are wrong. Three deviations are 16.
    assert abs(wrong.sum() - 270) < 16
    assert images.baselines[RIGHT_ONLY] < images.baselines[UNCLEANED] < 0.5


def test_a_task_repeats_no_character_and_no_drawing():
    drawings = np.arange(8 * 20 * 3).reshape(8, 20, 3)
    tasks = tasks_of(drawings, 50, 0)
    assert tasks.shape == (50, 5, 10, 3)
    number = tasks[..., 0] // 3
    assert all(len(set(task.ravel())) == 50 for task in number)
    characters = number // 20
    assert (characters == characters[..., :1]).all() and len(np.unique(characters)) == 8


def test_a_missing_file_of_drawings_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path))
    with pytest.raises(DataNotFoundError, match="there is no omniglot.npz in the folder BILEVEL_DATA, "):
        drawings()


def test_the_start_shares_no_key_with_the_measured_tasks():
    asked = jax.random.key_data(jax.random.split(jax.random.key(1), 600))
    start = jax.random.key_data(jax.random.fold_in(jax.random.key(1), image_tasks.START))
    assert not np.any(np.all(asked == start[None], axis=1))
