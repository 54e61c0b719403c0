"""Tasks: their closed forms, and that their step sizes fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse

import bilevel as b
from bilevel import tasks
from bilevel.datasets import Dataset
from cases.fewshot import noisy_prototypes


def test_quadratic_metrics_are_the_exact_value_and_its_gradient(key):
    task = tasks.quadratic(rows=30, outer_dim=4, inner_dim=6)
    data = task.data
    response = b.implicit(task.problem, b.descend(task.problem, 1.0, 400), b.cg(12))
    x, y = task.start(key)
    fit = b.solution(response)

    def phi(x):
        return task.problem.outer(x, fit(x, y, data), data.outer[0])

    metrics = task.metrics(x, y, task.held)
    assert metrics["outer_loss"] == pytest.approx(float(phi(x)), rel=1e-10)
    assert metrics["stationarity"] == pytest.approx(float(np.linalg.norm(jax.grad(phi)(x))), rel=1e-8)
    best = task.held[0]
    assert metrics["suboptimality"] == pytest.approx(float(phi(x) - phi(best)), rel=1e-8)
    assert np.linalg.norm(jax.grad(phi)(best)) < 1e-8
    eigenvalues = np.linalg.eigvalsh(np.asarray(data.inner[0][0]).mean(0))
    np.testing.assert_allclose(eigenvalues[[0, -1]], [0.1, 1.0], rtol=1e-6)


def toy(classes, sparse=False):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 90).astype(np.int32)
    features = rng.normal(size=(90, 7))
    features[:, :classes] += 2 * np.eye(classes)[labels]
    features = np.where(rng.random((90, 7)) < 0.5, features, 0)
    features = scipy.sparse.csr_matrix(features) if sparse else features
    return Dataset("toy", features, labels, [str(c) for c in range(classes)], features, labels)


@pytest.mark.parametrize("classes", [2, 4])
def test_regularization_of_sparse_rows_equals_that_of_dense_rows(classes, key):
    values = []
    for sparse in (False, True):
        task = tasks.regularization(toy(classes, sparse))
        data = task.data
        x, y = task.start(key)
        y = y + jax.random.normal(key, y.shape)
        values.append(
            (
                task.problem.inner(x, y, data.inner[0]),
                task.problem.outer(x, y, data.outer[0]),
                jax.grad(task.problem.inner, argnums=(0, 1))(x, y, data.inner[0]),
                task.metrics(x, y, task.held),
                task.inner_step,
            )
        )
    for dense, sparse in zip(*map(jax.tree.leaves, values), strict=True):
        np.testing.assert_allclose(dense, sparse, rtol=1e-9)


def test_regularization_of_two_classes_is_logistic_regression_with_one_strength_per_feature(key):
    task = tasks.regularization(toy(2))
    rows = task.data.inner[0]
    x, y = jnp.linspace(-1, 1, 7), jax.random.normal(key, (7, 1))
    signs = 2.0 * rows["labels"].astype(float) - 1
    want = jnp.mean(jnp.log1p(jnp.exp(-signs * (rows["features"] @ y)[:, 0]))) + 0.5 * jnp.exp(x) @ (
        y[:, 0] ** 2
    )
    assert task.problem.inner(x, y, rows) == pytest.approx(float(want), rel=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
def test_regularization_minibatches_visit_every_row(sparse, key):
    task = tasks.regularization(toy(4, sparse))
    source = task.minibatches(8).inner
    blocks = -(-45 // 8)
    view = source.view(source.plan(key, 0, blocks))
    assert sum(view[i]["labels"].size for i in range(blocks)) == 48


def test_regularization_learns_which_features_matter(key):
    task = tasks.regularization("breast_cancer")
    algorithm = b.aid_bio(task.problem, inner_optimizer=task.inner_step, outer_optimizer=task.outer_step)
    x, y = task.start(key)
    result = b.run(algorithm, x, y, task.data, steps=500, key=key, log_every=500)
    found = task.metrics(result.state.x, result.state.y, task.held)
    assert found["outer_loss"] < 0.3 and found["test_accuracy"] > 0.92


def test_few_shot_keeps_a_head_for_each_task_and_its_features_serve_new_classes(key):
    with jax.numpy_rank_promotion("allow"):
        data = noisy_prototypes(side=16)
        task = tasks.few_shot(data, tasks=6, ways=3, shots=2, queries=2, network="lenet")
        x, y = task.start(key)
        whole, part = task.data, task.minibatches(2)
        assert y["kernel"].shape == (6, 84, 3) and task.held.query.pixels.shape == (50, 6, 16, 16, 1)
        # A minibatch of tasks moves their heads alone, and the mean over all is that over the parts.
        part = b.Batch(*(source.view(source.plan(key, 0, 3)) for source in part))
        slopes = [jax.grad(task.problem.inner, argnums=1)(x, y, part.inner[i]) for i in range(3)]
        moved = [np.flatnonzero(np.abs(slope["kernel"]).sum((1, 2))) for slope in slopes]
        assert [len(tasks) for tasks in moved] == [2, 2, 2] and sorted(np.concatenate(moved)) == list(
            range(6)
        )
        mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *slopes)
        exact = jax.grad(task.problem.inner, argnums=1)(x, y, whole.inner[0])
        np.testing.assert_allclose(mean["kernel"], exact["kernel"], atol=1e-6)
        # The step size is within the curvature: descent goes down to where the gradient is small.
        solver = b.descend(task.problem, task.inner_step * 6 / 4, 300)
        trained = solver.solve(x, y, whole)
        before, after = (
            float(optax.tree.norm(jax.grad(task.problem.inner, argnums=1)(x, heads, whole.inner[0])))
            for heads in (y, trained)
        )
        assert after < 0.1 * before
        assert task.metrics(x, trained, task.held)["test_accuracy"] > 0.6
