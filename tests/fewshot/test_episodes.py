"""Episodes: distinct classes and images, and draws that do not depend on the chunks."""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel.fewshot import Episode, Episodes, Images, Shape, as_episode, host_episodes
from bilevel.fewshot.episodes import dealt_again
from bilevel.sampling import Full

SHAPE = Shape(ways=4, shots=2, queries=3)


@pytest.fixture(autouse=True)
def _promotion_allowed():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def numbered(classes=7, each=6):
    """Return images of one pixel whose value identifies them: 10 * class + number."""
    numbers = 10 * np.arange(classes)[:, None] + np.arange(each)
    return numbers.astype(np.uint8)[..., None, None, None]


def source(tasks=5):
    return Episodes(jnp.asarray(numbered()), np.zeros(1), np.full(1, 1 / 255), None, SHAPE, tasks)


@functools.cache
def _read():
    return jax.jit(lambda source, i: source[i])


def minibatch(i, key=3, count=8):
    """Return the i-th minibatch of the run with this key, drawn in a compiled program."""
    planned = source().view(source().plan(jax.random.key(key), 0, count))
    return jax.tree.map(np.asarray, _read()(planned, i))


def numbers_of(images):
    """Return the identity of each image, (tasks, ways, images per class)."""
    pixels = np.asarray(images.pixels)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-4)  # float32 divides by 255 twice
    return pixels.round().astype(int).reshape(len(pixels), SHAPE.ways, -1)


@pytest.mark.parametrize("where", ["device", "host"])
def test_an_episode_has_distinct_classes_distinct_images_and_labels_in_order(where):
    if where == "device":
        found = [minibatch(i) for i in range(8)]
    else:
        host = host_episodes(numbered(), np.zeros(1), np.full(1, 1 / 255), SHAPE, 5)
        found = [host.fetch(i) for i in range(8)]
    seen = []
    for episodes in found:
        support, query = numbers_of(episodes.support), numbers_of(episodes.query)
        both = np.concatenate([support, query], axis=2)
        assert both.shape == (5, SHAPE.ways, 5)
        for task in both:
            assert len({*task[:, 0] // 10}) == SHAPE.ways and np.all(task // 10 == task[:, :1] // 10)
            assert len({*task.ravel()}) == task.size
        for images, each in ((episodes.support, SHAPE.shots), (episodes.query, SHAPE.queries)):
            assert images.labels.dtype == np.int32
            np.testing.assert_array_equal(images.labels, np.tile(np.repeat(np.arange(4), each), (5, 1)))
        seen.append(both)
    # 40 episodes use every class and every image, and no two are equal.
    assert len(np.unique(seen)) == 7 * 6 and len({task.tobytes() for task in np.concatenate(seen)}) == 40


def test_all_classes_and_images_are_equally_likely():
    many = source(tasks=3000)
    many = many.view(many.plan(jax.random.key(0), 0, 1))
    support = numbers_of(_read()(many, 0).support)
    # 24,000 draws of 42 images are 571 each. The binomial deviation is 24; five of them are 120.
    counts = np.bincount(support.ravel())
    assert np.all(abs(counts[counts > 0] - 24_000 / 42) < 120)


def test_pixels_are_normalised_by_mean_and_deviation():
    random = np.random.default_rng(0)
    stored = random.integers(0, 256, (3, 4, 2, 2, 2), np.uint8)
    mean, std = [0.25, 0.5], [0.5, 0.125]
    want = ((stored / 255 - mean) / std).reshape(12, 2, 2, 2)
    for given in (stored, jnp.asarray(stored)):
        episode = as_episode(given[:, :1], given[:, 1:], mean, std)
        got = np.asarray(episode.query.pixels).reshape(3, 3, 2, 2, 2)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want.reshape(3, 4, 2, 2, 2)[:, 1:], atol=2e-6)  # float32, up to 6


def test_a_minibatch_depends_on_its_key_and_number_only():
    key = jax.random.key(3)
    whole = source().plan(key, 0, 8)
    parts = jnp.concatenate([source().plan(key, 0, 3), source().plan(key, 3, 5)])
    np.testing.assert_array_equal(jax.random.key_data(whole), jax.random.key_data(parts))
    again, other = minibatch(2, count=5), minibatch(2, key=4)
    np.testing.assert_array_equal(minibatch(2).query.pixels, again.query.pixels)
    assert np.any(numbers_of(other.query) != numbers_of(again.query))


class Seen(NamedTuple):
    x: Any
    y: Any
    count: Any


def recorder():
    """Return an algorithm that records the support pixels of every step."""

    def init(x, y):
        return Seen(x, y, jnp.zeros((), jnp.int32))

    def step(state, batch, key):
        pixels = batch.outer[0].support.pixels.astype(jnp.float64)
        x = state.x.at[state.count].set(pixels.reshape(-1))
        return Seen(x, state.y, state.count + 1), {"outer_loss": jnp.mean(pixels)}

    return b.Algorithm(init, step, b.Draws(1, 1), b.Cost())


def recorded(data, log_every):
    batches = b.Batch(data, Full(None))
    x = jnp.zeros((6, 5 * SHAPE.ways * SHAPE.shots))
    result = b.run(recorder(), x, 0.0, batches, steps=6, key=jax.random.key(3), log_every=log_every)
    return np.asarray(result.state.x)


def test_a_run_sees_the_same_episodes_for_all_chunk_lengths():
    cut = recorded(source(), 4)
    assert len({row.tobytes() for row in cut}) == 6
    outer_key = jax.random.split(jax.random.key(3), 3)[0]
    drawn = source().view(source().plan(outer_key, 0, 6))
    direct = [_read()(drawn, i).support.pixels.ravel() for i in range(6)]
    np.testing.assert_allclose(cut, direct, atol=1e-4)  # another program may round the divisions differently


def test_host_episodes_run_from_a_memory_map_in_the_order_of_their_numbers(tmp_path):
    np.save(tmp_path / "images.npy", numbered())
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    scale = np.zeros(1), np.full(1, 1 / 255)
    host = host_episodes(mapped, *scale, SHAPE, 5, seed=1)
    want = np.stack([host.fetch(i).support.pixels.ravel() for i in range(6)])
    assert len({row.tobytes() for row in want}) == 6
    for log_every in (6, 4):
        np.testing.assert_array_equal(recorded(host, log_every), want)
    in_memory = host_episodes(numbered(), *scale, SHAPE, 5, seed=1)
    np.testing.assert_array_equal(in_memory.fetch(3).query.pixels, host.fetch(3).query.pixels)
    other = host_episodes(mapped, *scale, SHAPE, 5, seed=2)
    assert np.any(other.fetch(3).query.pixels != host.fetch(3).query.pixels)


@pytest.mark.parametrize(
    "shape, message",
    [
        (Shape(1, 1, 1), "ways must be at least 2, got 1"),
        (Shape(2, 0, 1), "shots must be at least 1, got 0"),
        (Shape(2, 1, 0), "queries must be at least 1, got 0"),
        (Shape(8, 1, 1), "ways must be at most 7, the number of test classes, got 8"),
        (
            Shape(7, 4, 3),
            "shots + queries must be at most 6, the number of images of a test class, got 4 + 3",
        ),
    ],
)
def test_a_shape_that_exceeds_the_images_is_an_error(shape, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        shape.validate(numbered(), "test")
    Shape(7, 3, 3).validate(numbered(), "test")


def test_dealing_again_keeps_the_labels_and_the_images_of_every_class(key):
    # The one pixel of an image identifies it: class, then number in the class.
    pixels = 10.0 * jnp.arange(3)[:, None] + jnp.arange(5)
    support, query = pixels[:, :2].reshape(-1, 1, 1, 1), pixels[:, 2:].reshape(-1, 1, 1, 1)
    labels = jnp.repeat(jnp.arange(3), 2), jnp.repeat(jnp.arange(3), 3)
    episode = Episode(Images(support, labels[0]), Images(query, labels[1]))
    for each in jax.random.split(key, 3):
        dealt = dealt_again(episode, 3, each)
        assert not jnp.array_equal(dealt.support.pixels, support)
        found = jnp.concatenate([images.pixels.reshape(3, -1) for images in dealt], axis=1)
        np.testing.assert_array_equal(jnp.sort(found, axis=1), pixels)
        for images, before in zip(dealt, episode, strict=True):
            np.testing.assert_array_equal(images.labels, before.labels)


def test_episodes_have_no_full_data_set():
    with pytest.raises(ValueError, match="use an algorithm without refreshes"):
        source().whole()
