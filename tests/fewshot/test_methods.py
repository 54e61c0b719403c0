"""Few-shot learning: what an episode holds, and the gradient of every method against plain loops."""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import bilevel as b
from bilevel import fewshot
from bilevel.fewshot import METHODS, Episode, Episodes, Images, Settings, Shape, host_episodes
from bilevel.fewshot.episodes import dealt_again
from bilevel.inner import checkpointed, embedded
from bilevel.response.zeroth_order import gaussian
from cases.fewshot import as_double, features_by_hand, plain_network, small_network

SHAPE = Shape(ways=4, shots=2, queries=3)
TASKS, WAYS, SHOTS = 2, 3, 2


@pytest.fixture(autouse=True)
def _layers_promote():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


# Episodes


def numbered(classes=7, each=6):
    """Images of one pixel that say which they are: 10 x class + number."""
    numbers = 10 * np.arange(classes)[:, None] + np.arange(each)
    return numbers.astype(np.uint8)[..., None, None, None]


def source(tasks=5):
    return Episodes(jnp.asarray(numbered()), np.zeros(1), np.full(1, 1 / 255), None, SHAPE, tasks)


@functools.cache
def _read():
    return jax.jit(lambda source, i: source[i])


def minibatch(i, key=3, count=8):
    """The i-th minibatch of the run with this key, drawn in a compiled program."""
    planned = source().view(source().plan(jax.random.key(key), 0, count))
    return jax.tree.map(np.asarray, _read()(planned, i))


def numbers_of(images):
    """Which image each is, (tasks, ways, images a class), from pixels that mean and std leave alone."""
    pixels = np.asarray(images.pixels)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-4)  # float32 divides by 255 and again
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
    # 40 episodes of 4 of 7 classes and 5 of 6 images leave none of either out, nor does one come twice.
    assert len(np.unique(seen)) == 7 * 6 and len({task.tobytes() for task in np.concatenate(seen)}) == 40


def test_every_class_and_image_is_as_likely_as_any_other():
    many = source(tasks=3000)
    many = many.view(many.plan(jax.random.key(0), 0, 1))
    support = numbers_of(_read()(many, 0).support)
    # 24,000 draws of 42 images are 571 each; a binomial deviation is 24, and 5 of them are 120.
    counts = np.bincount(support.ravel())
    assert np.all(abs(counts[counts > 0] - 24_000 / 42) < 120)


def test_pixels_are_scaled_by_mean_and_deviation():
    random = np.random.default_rng(0)
    stored = random.integers(0, 256, (3, 4, 2, 2, 2), np.uint8)
    mean, std = [0.25, 0.5], [0.5, 0.125]
    want = ((stored / 255 - mean) / std).reshape(12, 2, 2, 2)
    for given in (stored, jnp.asarray(stored)):
        episode = fewshot.as_episode(given[:, :1], given[:, 1:], mean, std)
        got = np.asarray(episode.query.pixels).reshape(3, 3, 2, 2, 2)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want.reshape(3, 4, 2, 2, 2)[:, 1:], atol=2e-6)  # float32, up to 6


def test_a_minibatch_depends_on_key_and_number_alone():
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
    """An algorithm that writes down the support pixels of the steps it makes."""

    def init(x, y):
        return Seen(x, y, jnp.zeros((), jnp.int32))

    def step(state, batch, key):
        pixels = batch.outer[0].support.pixels.astype(jnp.float64)
        x = state.x.at[state.count].set(pixels.reshape(-1))
        return Seen(x, state.y, state.count + 1), {"outer_loss": jnp.mean(pixels)}

    return b.Algorithm(init, step, b.Draws(1, 1), b.Cost())


def recorded(data, log_every):
    batches = b.Batch(data, b.sampling.Full(None))
    x = jnp.zeros((6, 5 * SHAPE.ways * SHAPE.shots))
    result = b.run(recorder(), x, 0.0, batches, steps=6, key=jax.random.key(3), log_every=log_every)
    return np.asarray(result.state.x)


def test_a_run_sees_the_same_episodes_however_it_is_cut():
    cut = recorded(source(), 4)
    assert len({row.tobytes() for row in cut}) == 6
    outer_key = jax.random.split(jax.random.key(3), 3)[0]
    drawn = source().view(source().plan(outer_key, 0, 6))
    direct = [_read()(drawn, i).support.pixels.ravel() for i in range(6)]
    np.testing.assert_allclose(cut, direct, atol=1e-4)  # another program may divide in another way


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
    "shape, told",
    [
        (Shape(1, 1, 1), "ways must be at least 2, got 1"),
        (Shape(2, 0, 1), "shots must be at least 1, got 0"),
        (Shape(2, 1, 0), "queries must be at least 1, got 0"),
        (Shape(8, 1, 1), "ways must be at most 7, the test classes, got 8"),
        (
            Shape(7, 4, 3),
            "shots and test queries together must be at most 6, the images of a test class, got 4 + 3",
        ),
    ],
)
def test_an_episode_that_the_images_cannot_give_is_refused(shape, told):
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        shape.validate(numbered(), "test")
    Shape(7, 3, 3).validate(numbered(), "test")


def test_dealing_again_keeps_the_images_of_every_class_and_the_labels(key):
    # An image is told by its one pixel: class, then number in the class.
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


def test_there_is_no_end_of_episodes():
    with pytest.raises(ValueError, match="use an algorithm without refreshes"):
        source().whole()


# Methods: the gradient of every one, against loops of Python on a network written out by hand

SETTINGS = Settings(
    inner_step=0.3, inner_steps=2, test_steps=3, momentum=0.5, penalty=0.1, pull=2.0, linear_steps=60,
    damping=0.5, probability=1.0, directions=2, smoothing=1e-2,
)  # fmt: skip


@functools.cache
def learners(name, ways=WAYS, network=small_network, **changes):
    """A method on a network with parameters of 64 bits."""
    net = network()
    double = net._replace(init=lambda key: as_double(net.init(key)))
    return METHODS[name](double, ways, optax.sgd(1.0), SETTINGS._replace(**changes))


@functools.cache
def toy_tasks(ways=WAYS):
    """(tasks, ...) episodes of 8x8 images in 64 bits."""
    random = np.random.default_rng(ways)
    patterns = random.normal(size=(TASKS, ways, 1, 8, 8, 1))

    def images(each):
        pixels = patterns + random.normal(size=(TASKS, ways, each, 8, 8, 1))
        labels = np.tile(np.repeat(np.arange(ways, dtype=np.int32), each), (TASKS, 1))
        return Images(pixels.reshape(TASKS, ways * each, 8, 8, 1), labels)

    return Episode(images(SHOTS), images(2))


def task(i, ways=WAYS):
    return jax.tree.map(lambda leaf: leaf[i], toy_tasks(ways))


def entropy(outputs, labels):
    return -jnp.mean(jax.nn.log_softmax(outputs)[jnp.arange(len(labels)), labels])


def linear(head, features):
    return features @ head["kernel"] + head["bias"]


def query_by_hand(parameters, episode, transductive=True):
    if transductive:
        return features_by_hand(parameters, episode.query.pixels)
    count = len(episode.support.labels)
    both = jnp.concatenate([episode.support.pixels, episode.query.pixels])
    return features_by_hand(parameters, both, count)[count:]


def walked(loss, y, steps, momentum=0.5):
    """Gradient descent on `loss(y, step)` with heavy-ball momentum, as a loop of Python."""
    trace = jax.tree.map(jnp.zeros_like, y)
    for i in range(steps):
        trace = jax.tree.map(lambda m, g: momentum * m + g, trace, jax.grad(loss)(y, i))
        y = jax.tree.map(lambda y, m: y - 0.3 * m, y, trace)
    return y


class ByHand:
    """Losses of one task on the whole network and on its head, and how y is trained on them."""

    def __init__(self, episode, transductive=True, pull=0.0):
        self.episode, self.transductive, self.pull = episode, transductive, pull

    def whole_inner(self, y, images=None):
        support = self.episode.support if images is None else images
        outputs = linear(y["head"], features_by_hand(y["features"], support.pixels))
        return entropy(outputs, support.labels)

    def whole_outputs(self, y):
        return linear(y["head"], query_by_hand(y["features"], self.episode, self.transductive))

    def whole_outer(self, y):
        return entropy(self.whole_outputs(y), self.episode.query.labels)

    def whole_trained(self, x, steps=2):
        def pulled(y, i):
            away = sum(jnp.sum((a - c) ** 2) for a, c in zip(*map(jax.tree.leaves, (y, x)), strict=True))
            return self.whole_inner(y) + 0.5 * self.pull * away

        return walked(pulled, x, steps)

    def head_trained(self, x, head, steps=2):
        features = features_by_hand(x["features"], self.episode.support.pixels)

        def loss(head, i):
            squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(head))
            return entropy(linear(head, features), self.episode.support.labels) + 0.05 * squares

        return walked(loss, head, steps)

    def head_outputs(self, x, head):
        return linear(head, query_by_hand(x["features"], self.episode, self.transductive))

    def head_outer(self, x, head):
        return entropy(self.head_outputs(x, head), self.episode.query.labels)

    def distances(self, x, ways):
        support = features_by_hand(x["features"], self.episode.support.pixels)
        members = jax.nn.one_hot(self.episode.support.labels, ways, dtype=jnp.float64)
        means = members.T @ support / SHOTS
        query = query_by_hand(x["features"], self.episode, self.transductive)
        return means, -jnp.stack([jnp.sum((query - mean) ** 2, axis=1) for mean in means], axis=1)


def zero_head(ways=WAYS):
    return {"kernel": jnp.zeros((32, ways)), "bias": jnp.zeros(ways)}


def maml_by_hand(hand, x, key):
    return jax.grad(lambda x: hand.whole_outer(hand.whole_trained(x)))(x)


def fomaml_by_hand(hand, x, key):
    return jax.grad(hand.whole_outer)(hand.whole_trained(x))


def imaml_by_hand(hand, x, key):
    """pull (H + pull + damping)^{-1} f_y at the trained network, by a dense solve."""
    hand.pull = SETTINGS.pull
    flat, back = ravel_pytree(hand.whole_trained(x))
    hessian = jax.hessian(lambda flat: hand.whole_inner(back(flat)))(flat)
    slope = jax.grad(lambda flat: hand.whole_outer(back(flat)))(flat)
    shifted = hessian + (SETTINGS.pull + SETTINGS.damping) * jnp.eye(len(flat))
    return back(SETTINGS.pull * jnp.linalg.solve(shifted, slope))


def reptile_by_hand(hand, x, key):
    """Each step on another choice of the images of each class, which are as many as at the test."""
    inner_key = jax.random.split(key[0])[1]

    def loss(y, i):
        dealt = dealt_again(hand.episode, WAYS, jax.random.fold_in(inner_key, i))
        return hand.whole_inner(y, dealt.support)

    return jax.tree.map(jnp.subtract, x, walked(loss, x, 2))


def anil_by_hand(hand, x, key):
    return jax.grad(lambda x: hand.head_outer(x, hand.head_trained(x, x["head"])))(x)


def itd_bio_by_hand(hand, x, key):
    return jax.grad(lambda x: hand.head_outer(x, hand.head_trained(x, zero_head())))(x)


def fo_itd_bio_by_hand(hand, x, key):
    return jax.grad(hand.head_outer)(x, hand.head_trained(x, zero_head()))


def pzobo_by_hand(hand, x, key):
    """f_x + the mean over j of <(y(x + mu u_j) - y(x)) / mu, f_y> u_j."""
    y = hand.head_trained(x, zero_head())
    f_x, f_y = jax.grad(hand.head_outer, argnums=(0, 1))(x, y)
    flat, back = ravel_pytree(x)
    slope = ravel_pytree(f_y)[0]
    gradient = ravel_pytree(f_x)[0]
    for j in range(2):
        along = ravel_pytree(jax.tree.map(lambda u, j=j: u[j], gaussian(key[1], x, 2)))[0]
        moved = hand.head_trained(back(flat + 1e-2 * along), zero_head())
        moved = (ravel_pytree(moved)[0] - ravel_pytree(y)[0]) / 1e-2
        gradient += jnp.vdot(moved, slope) * along / 2
    return back(gradient)


def protonet_by_hand(hand, x, key):
    return jax.grad(lambda x: entropy(hand.distances(x, WAYS)[1], hand.episode.query.labels))(x)


BY_HAND = {
    "maml": maml_by_hand,
    "fomaml": fomaml_by_hand,
    "anil": anil_by_hand,
    "imaml": imaml_by_hand,
    "reptile": reptile_by_hand,
    "itd_bio": itd_bio_by_hand,
    "fo_itd_bio": fo_itd_bio_by_hand,
    "pzobo": pzobo_by_hand,
    "ufo_blo": maml_by_hand,
    "protonet": protonet_by_hand,
}


def start_of(name):
    """x with a head that is not zero and norms that are not 1; parameters of 64 bits."""
    x, y = learners(name).start(jax.random.key(1))
    x = as_double(x)
    x["features"]["BatchNorm_0"]["scale"] = jnp.array([0.8, 1.3, 0.6])
    x["features"]["BatchNorm_0"]["bias"] = jnp.array([0.2, -0.4, 0.1])
    return x, x if name in ("maml", "fomaml", "imaml", "reptile", "ufo_blo") else y


def one_step(learner, x, y):
    """`(x, state after one step)`."""
    step = jax.jit(lambda state, tasks, key: learner.algorithm.step(state, b.full(tasks, None), key)[0])
    return x, step(learner.algorithm.init(x, y), toy_tasks(), jax.random.key(7))


def stepped(name, **changes):
    """The same from the start that the loops have."""
    return one_step(learners(name, **changes), *start_of(name))


def gradient(name, **changes):
    x, state = stepped(name, **changes)
    return jax.tree.map(jnp.subtract, x, state.x)


@functools.cache
def truth(by_hand, x_of, transductive=True):
    """The mean over tasks of a gradient by hand, at the start of a method."""
    one = jax.jit(lambda x, episode, key: by_hand(ByHand(episode, transductive), x, key))
    # Every task has a key, which is split for the data and for the response.
    keys = [jax.random.split(key) for key in jax.random.split(jax.random.key(7), TASKS)]
    found = [one(start_of(x_of)[0], task(i), keys[i]) for i in range(TASKS)]
    return jax.tree.map(lambda *leaves: sum(leaves) / TASKS, *found)


def want(name, transductive=True):
    by_hand = BY_HAND[name]
    # Methods with the same x share what they have in common.
    whole = by_hand in (maml_by_hand, fomaml_by_hand, imaml_by_hand, reptile_by_hand)
    return truth(by_hand, "maml" if whole else name, transductive)


def close(got, want, rtol=1e-9):
    """Round-off of sums in another order: 1e-9 of the largest entry, seven digits above that of float64."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, c in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == jnp.float64
        np.testing.assert_allclose(a, c, rtol=0, atol=rtol * float(jnp.max(jnp.abs(c))) + 1e-14)


# All tasks at once, for one method of each kind: compiling them is what takes the time.
AT_ONCE = ("maml", "fomaml", "ufo_blo", "anil", "itd_bio", "protonet")


@pytest.mark.parametrize("name, vectorize", [*((m, False) for m in METHODS), *((m, True) for m in AT_ONCE)])
def test_the_gradient_is_that_of_a_plain_loop(name, vectorize):
    # Paths of pzobo differ by 1e-2, which costs two digits.
    close(gradient(name, vectorize=vectorize), want(name), 1e-7 if name == "pzobo" else 1e-9)


@pytest.mark.parametrize("name", ["fomaml", "itd_bio"])
def test_the_gradient_is_that_of_a_plain_loop_with_query_images_normalised_by_the_support(name):
    close(gradient(name, transductive=False), want(name, False))
    # And that is another one.
    difference = optax.tree.norm(optax.tree.sub(want(name), want(name, False)))
    assert difference > 0.01 * optax.tree.norm(want(name))


@pytest.mark.parametrize("name", ["maml", "itd_bio"])
def test_checkpoints_leave_the_gradient_alone(name):
    found = []
    for levels in range(3):
        learner = learners(name, network=plain_network, inner_steps=10, recompute=levels)
        x, state = one_step(learner, *learner.start(jax.random.key(1)))
        found.append(jax.tree.map(jnp.subtract, x, state.x))
    # The same sums, compiled in another way.
    close(found[1], found[0], 1e-12)
    close(found[2], found[0], 1e-12)


def test_ufo_blo_that_walks_again_takes_no_momentum():
    with pytest.raises(ValueError, match="the inner optimiser must have no state"):
        gradient("ufo_blo", recompute=1)


def test_protonet_finds_the_class_means():
    x, state = stepped("protonet")
    means, _ = ByHand(task(0)).distances(x, WAYS)
    np.testing.assert_allclose(state.y, means, rtol=1e-12)


# New tasks


def nearest_mean(x, episode, ways):
    return ByHand(episode).distances(x, ways)[1]


def fresh_head(x, episode, ways):
    hand = ByHand(episode)
    return hand.head_outputs(x, hand.head_trained(x, zero_head(ways), 3))


def learnt_head(x, episode, ways):
    hand = ByHand(episode)
    return hand.head_outputs(x, hand.head_trained(x, x["head"], 3))[:, :ways]


def whole_network(x, episode, ways, pull=0.0):
    hand = ByHand(episode, pull=pull)
    return hand.whole_outputs(hand.whole_trained(x, 3))[:, :ways]


ANSWERS = {
    "anil": learnt_head,
    "imaml": functools.partial(whole_network, pull=SETTINGS.pull),
    "protonet": nearest_mean,
    **dict.fromkeys(("maml", "fomaml", "reptile", "ufo_blo"), whole_network),
    **dict.fromkeys(("itd_bio", "fo_itd_bio", "pzobo"), fresh_head),
}


@pytest.mark.parametrize("name", METHODS)
def test_answers_are_those_of_a_plain_loop_for_fewer_and_more_ways(name):
    learner, (x, _) = learners(name), start_of(name)
    for ways in (2, 5) if learner.fresh_head else (2,):
        got = jax.jit(learner.answer, static_argnums=2)(x, task(1, ways), ways)
        assert got.shape == (2 * ways, ways)
        wanted = jax.jit(ANSWERS[name], static_argnums=2)(x, task(1, ways), ways)
        # Round-off of sums in another order; logits are of the order of 1.
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["maml", "itd_bio"])
@pytest.mark.parametrize("transductive", [False, True])
def test_a_query_image_is_seen_by_the_others_only_if_transductive(name, transductive):
    learner, (x, _) = learners(name, transductive=transductive), start_of(name)
    episode = task(0)
    pixels = jnp.asarray(episode.query.pixels)
    other = episode._replace(query=episode.query._replace(pixels=pixels.at[0].set(-2 * pixels[0])))
    answer = jax.jit(learner.answer, static_argnums=2)
    before, after = answer(x, episode, WAYS), answer(x, other, WAYS)
    moved = np.abs(after - before).max(1)
    assert moved[0] > 1e-3
    # Without a look at one another not a bit changes.
    assert np.all(moved[1:] > 1e-6) if transductive else np.all(moved[1:] == 0)


# What the inner solver adds


def cubic():
    """An inner loss of two variables that is no quadratic, and a path through it of 10 steps."""
    random = np.random.default_rng(0)
    a, c = jnp.asarray(random.normal(size=(4, 3))), jnp.asarray(random.normal(size=4))

    def inner(x, y, batch):
        return 0.5 * jnp.sum((a @ y - jnp.tanh(x + c)) ** 2) + 0.1 * jnp.sum(jnp.cos(y) * x[:3])

    return b.Problem(lambda x, y, batch: jnp.sum(jnp.sin(y)) + 0.1 * jnp.sum(x**2), inner)


def second_derivative(solver, start):
    problem = cubic()
    fit = b.solution(b.unrolled(solver, start=start))

    def loss(x):
        y = fit(x, jnp.ones(3), b.full(None, None))
        return problem.outer(x, y, None)

    return jax.jit(lambda x: (jax.grad(loss)(x), jax.jacrev(jax.grad(loss))(x)))(jnp.linspace(-1, 1, 4))


@pytest.mark.parametrize("start, last", [(None, 7), (lambda x: x[:3], None)], ids=["fixed", "learnt"])
def test_checkpoints_leave_both_derivatives_alone(start, last):
    plain, once, twice = (
        second_derivative(b.descend(cubic(), 0.1, 10, last=last, recompute=levels), start)
        for levels in range(3)
    )
    assert jnp.max(jnp.abs(plain[1] - jnp.diag(jnp.diag(plain[1])))) > 1e-3
    for found in (once, twice):
        for got, want in zip(found, plain, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)  # the same sums, compiled anew


@pytest.mark.parametrize("levels", range(4))
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 10, 27, 29])
def test_checkpoints_visit_every_step_once_and_in_order(levels, steps):
    def step(carry, i):
        digits, place = carry
        return (digits.at[place].set(i), place + 1), None

    start = jnp.full(steps + 1, -1), jnp.zeros((), jnp.int32)
    digits, place = checkpointed(step, start, jnp.arange(steps), levels)
    assert place == steps
    np.testing.assert_array_equal(digits, [*range(steps), -1])


def test_recompute_must_not_be_negative():
    with pytest.raises(ValueError, match="^recompute must be at least 0, got -1$"):
        b.descend(cubic(), 0.1, 5, recompute=-1)
    with pytest.raises(ValueError, match="^recompute must be 0 with resample, got 1$"):
        b.maml(cubic(), resample=lambda task, key: task, recompute=1)


def test_an_embedded_solver_is_the_plain_one_in_value_and_both_derivatives():
    calls = []

    def embed(x, minibatch):
        calls.append(1)
        return jnp.tanh(x) * minibatch

    problem = cubic()
    plain = b.Problem(problem.outer, lambda x, y, batch: problem.inner(embed(x, batch), y, batch))
    data = b.full(None, jnp.asarray(1.5))
    solvers = b.descend(plain, 0.1, 6), embedded(b.descend(problem, 0.1, 6), embed)

    def loss(solver, x):
        y = b.solution(b.unrolled(solver))(x, jnp.ones(3), data)
        return problem.outer(x, y, None)

    x = jnp.linspace(-1, 1, 4)
    for derivative in (lambda f: f, jax.grad, lambda f: jax.jacrev(jax.grad(f))):
        want, got = (derivative(functools.partial(loss, solver))(x) for solver in solvers)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)  # the same sums in another order
    calls.clear()
    jax.make_jaxpr(functools.partial(loss, solvers[1]))(x)
    assert len(calls) == 1
    assert solvers[1].cost == solvers[0].cost
