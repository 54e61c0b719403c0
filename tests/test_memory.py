"""Memory of compiled steps: with checkpoints it hardly grows with the inner steps."""

import jax
import jax.numpy as jnp
import optax
import pytest

import bilevel as b
from bilevel.fewshot import METHODS, Episode, Images
from cases.fewshot import small_network


@pytest.fixture(autouse=True)
def _layers_promote():
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def scratch(function, *shapes):
    """Return the bytes that a compiled function needs besides its arguments and results."""
    memory = jax.jit(function).lower(*shapes).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def step_scratch(name, inner_steps, recompute):
    """Return these bytes for one outer step on two tasks of 5 ways, 5 shots and 5 query images of 28x28."""
    learner = METHODS[name](
        small_network(28),
        5,
        optax.sgd(0.1),
        inner_step=0.1,
        inner_steps=inner_steps,
        recompute=recompute,
        vectorize=False,
    )
    images = Images(
        jax.ShapeDtypeStruct((2, 25, 28, 28, 1), jnp.float32), jax.ShapeDtypeStruct((2, 25), jnp.int32)
    )

    def step(state, tasks):
        return learner.algorithm.step(state, b.full(tasks, None), None)[0]

    state = jax.eval_shape(lambda key: learner.algorithm.init(*learner.start(key)), jax.random.key(0))
    return scratch(step, state, Episode(images, images))


@pytest.mark.parametrize("name", ["maml", "itd_bio"])
def test_with_checkpoints_ten_times_the_inner_steps_need_hardly_more_memory(name):
    def growth(levels):
        few, many = (step_scratch(name, steps, levels) for steps in (5, 50))
        return many / few

    # With checkpoints 7 + 7 of 50 iterates are stored at a time, little compared to the images of one step.
    assert growth(1) < 1.3 < growth(0)


def test_each_level_of_checkpoints_stores_less_of_a_large_y():
    size, steps = 10_000, 400
    problem = b.Problem(lambda x, y, batch: jnp.sum(y**2), lambda x, y, batch: jnp.sum(jnp.cos(x * y)))

    def gradient(levels):
        response = b.unrolled(b.descend(problem, 0.1, steps, recompute=levels))
        return lambda x, y: b.hypergradient(problem, response, x, y, b.full(None, None))[0]

    y = jax.ShapeDtypeStruct((size,), jnp.float32)
    plain, once, twice = (scratch(gradient(levels), y, y) / (4 * size) for levels in range(3))
    # In copies of y: all iterates, 2 sqrt(400) or 3 cbrt(400) of them, and some more for a step itself.
    assert steps <= plain < steps + 20
    assert once < 40 + 20
    assert twice < 22 + 20 and twice < once


def test_tasks_in_sequence_need_the_same_memory_for_every_number_of_tasks():
    size = 10_000
    problem = b.Problem(
        lambda x, y, task: jnp.sum(task * jnp.sin(y)), lambda x, y, task: jnp.sum(jnp.cos(x * y) * task)
    )
    algorithm = b.maml(problem, inner_steps=2, vectorize=False)

    def copies(tasks):
        x = jax.ShapeDtypeStruct((size,), jnp.float32)
        state = jax.eval_shape(algorithm.init, x, x)
        tasks = jax.ShapeDtypeStruct((tasks,), jnp.float32)

        def step(state, tasks):
            return algorithm.step(state, b.full(tasks, None), None)[0]

        return scratch(step, state, tasks) / (4 * size)

    # A gradient and a y for each of 48 more tasks would be 96 copies of x.
    assert copies(50) < copies(2) + 1
