"""Influence of rows against training again, and softmax regression."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from bilevel.cleaning.influence import influence, row_influence
from bilevel.cleaning.scaling import scaling, to_device
from bilevel.cleaning.softmax import _lbfgs, calibrated_loss, fit, initial_parameters, logits


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    features = random.normal(size=(80, 4)).astype(np.float32)
    labels = (features @ random.normal(size=(4, 3)) + random.gumbel(size=(80, 3))).argmax(axis=1)
    return features[:60], labels[:60], features[60:], labels[60:]


def test_influence_is_the_change_of_the_trusted_loss(data):
    """Closed form in float64: -f_y' H^{-1} g_i at the trained model."""
    features, labels, trusted, trusted_labels = data
    found = row_influence(features, labels, trusted, trusted_labels, 3)
    scale = scaling(features)
    rows, held = scale(features).astype(float), scale(trusted).astype(float)

    def losses(y, features, labels):
        outputs = jax.nn.log_softmax(features @ y.reshape(5, 3)[:4] + y.reshape(5, 3)[4][None], axis=1)
        return -outputs[jnp.arange(len(labels)), labels]

    def influence_at(penalty):
        def inner(y):
            return jnp.mean(losses(y, rows, labels)) + penalty * y @ y

        y = jnp.zeros(15)
        for _ in range(20):
            y = y - jnp.linalg.solve(jax.hessian(inner)(y), jax.grad(inner)(y))
        gradient = jax.grad(lambda y: jnp.mean(losses(y, held, trusted_labels)))(y)
        rows_gradient = jax.jacobian(lambda y: losses(y, rows, labels))(y)
        return -rows_gradient @ jnp.linalg.solve(jax.hessian(inner)(y), gradient)

    from bilevel.cleaning.softmax import PENALTIES

    # The training stops at a gradient of 3e-4, in float32; one of the penalties was chosen.
    errors = [float(jnp.abs(influence_at(penalty) - found).max()) for penalty in PENALTIES]
    assert min(errors) < 0.02 * np.abs(found).max()


def test_sparse_influence_equals_dense(data):
    features, labels, trusted, trusted_labels = data
    features, trusted = np.abs(features), np.abs(trusted)
    dense = scipy.sparse.csr_matrix(features)
    found = row_influence(dense, labels, scipy.sparse.csr_matrix(trusted), trusted_labels, 3)
    assert found.shape == (60,) and np.isfinite(found).all()


def test_wrong_labels_harm_the_trusted_loss(data):
    features, labels, trusted, trusted_labels = data
    random = np.random.default_rng(1)
    wrong = random.permutation(60) < 12
    given = np.where(wrong, (labels + 1) % 3, labels)
    found = influence(features, given, (trusted, trusted_labels))
    assert found[wrong].mean() > found[~wrong].mean()


def test_linear_fit_is_the_minimum_and_sparse_equals_dense():
    random = np.random.default_rng(0)
    dense = (random.normal(size=(80, 6)) * (random.random((80, 6)) < 0.4)).astype(np.float32)
    labels, weights = random.integers(0, 3, 80), random.random(80)
    fits = []
    for features in (dense, scipy.sparse.csr_matrix(dense)):
        rows = to_device(features, labels)
        fits.append(fit(rows, weights, 1e-2, initial_parameters(6, 3), tolerance=1e-5))
        assert fits[-1].residual <= 1e-5
    # Two descents to a gradient of 1e-5 on a loss of curvature at least 2e-2.
    np.testing.assert_allclose(fits[0].y["matrix"], fits[1].y["matrix"], atol=2e-3)


def test_fits_of_equal_shapes_share_one_compilation():
    """Rows, weights and penalties are arguments of the compiled function."""
    solver: Any = _lbfgs
    sizes = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        rows = to_device(random.normal(size=(37, 4)).astype(np.float32), random.integers(0, 2, 37))
        fit(rows, random.random(37), 0.1 / (1 + seed), initial_parameters(4, 2))
        sizes.append(solver._cache_size())
    assert sizes[1:] == sizes[:1] * 2


def test_scaled_rows_have_curvature_one():
    random = np.random.default_rng(0)
    features = (5 + random.normal(size=(300, 8)) * np.arange(1, 9)).astype(np.float32)
    scaled = scaling(features)(features)
    moments = np.linalg.eigvalsh(np.cov(scaled.T, bias=True))
    # Thirty power iterations, from below.
    assert moments[-1] == pytest.approx(1, rel=0.02)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)


def test_calibrated_loss_does_not_depend_on_confidence():
    outputs, labels = np.random.default_rng(0).normal(size=(50, 4)), np.arange(50) % 4
    assert calibrated_loss(outputs / 4, labels) == pytest.approx(
        calibrated_loss(outputs / 2, labels), rel=0.05
    )
    assert logits(initial_parameters(2, 3), np.ones((5, 2), np.float32)).shape == (5, 3)
