"""Gradients and answers of every few-shot method, against loops written by hand."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import bilevel as b
from bilevel.fewshot import METHODS, Episode, Images, recipe
from bilevel.fewshot.episodes import dealt_again
from bilevel.response.zeroth_order import gaussian
from cases.fewshot import as_double, features_by_hand, plain_network, small_network

TASKS, WAYS, SHOTS = 2, 3, 2


@pytest.fixture(autouse=True)
def _promotion_allowed():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


VALUES = {
    "inner_step": 0.3,
    "inner_steps": 2,
    "test_steps": 3,
    "momentum": 0.5,
    "penalty": 0.1,
    "pull": 2.0,
    "linear_steps": 60,
    "damping": 0.5,
    "probability": 1.0,
    "directions": 2,
    "smoothing": 1e-2,
    "vectorize": False,
}


@functools.cache
def learners(name, ways=WAYS, network=small_network, **changes):
    """Return a method on a network with float64 parameters."""
    net = network()
    double = net._replace(init=lambda key: as_double(net.init(key)))
    own = recipe(name).hyperparameters
    shared = {parameter: value for parameter, value in VALUES.items() if parameter in own}
    return METHODS[name](double, ways, optax.sgd(1.0), **(shared | changes))


@functools.cache
def toy_tasks(ways=WAYS):
    """Return episodes of 8x8 images in float64, along a leading axis of tasks."""
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
    """Run gradient descent on `loss(y, step)` with momentum, as a loop of Python."""
    trace = jax.tree.map(jnp.zeros_like, y)
    for i in range(steps):
        trace = jax.tree.map(lambda m, g: momentum * m + g, trace, jax.grad(loss)(y, i))
        y = jax.tree.map(lambda y, m: y - 0.3 * m, y, trace)
    return y


class ByHand:
    """Losses of one task on the whole network and on its head, and their training."""

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
    """Return pull (H + pull + damping)^{-1} f_y by a dense solve."""
    hand.pull = VALUES["pull"]
    flat, back = ravel_pytree(hand.whole_trained(x))
    hessian = jax.hessian(lambda flat: hand.whole_inner(back(flat)))(flat)
    slope = jax.grad(lambda flat: hand.whole_outer(back(flat)))(flat)
    shifted = hessian + (VALUES["pull"] + VALUES["damping"]) * jnp.eye(len(flat))
    return back(VALUES["pull"] * jnp.linalg.solve(shifted, slope))


def reptile_by_hand(hand, x, key):
    """Move to a network trained on a new split of each class at every step."""
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
    """Return f_x + the mean over j of <(y(x + mu u_j) - y(x)) / mu, f_y> u_j."""
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
    """Return `(x, y)` in float64, with a nonzero head and scales other than 1."""
    x, y = learners(name).start(jax.random.key(1))
    x = as_double(x)
    x["features"]["BatchNorm_0"]["scale"] = jnp.array([0.8, 1.3, 0.6])
    x["features"]["BatchNorm_0"]["bias"] = jnp.array([0.2, -0.4, 0.1])
    return x, x if name in ("maml", "fomaml", "imaml", "reptile", "ufo_blo") else y


def one_step(learner, x, y):
    """Return x and the state after one step."""
    step = jax.jit(lambda state, tasks, key: learner.algorithm.step(state, b.full(tasks, None), key)[0])
    return x, step(learner.algorithm.init(x, y), toy_tasks(), jax.random.key(7))


def stepped(name, **changes):
    """Return the same from the start of the loops by hand."""
    return one_step(learners(name, **changes), *start_of(name))


def gradient(name, **changes):
    x, state = stepped(name, **changes)
    return jax.tree.map(jnp.subtract, x, state.x)


@functools.cache
def truth(by_hand, x_of, transductive=True):
    """Return the mean over tasks of a gradient by hand, at the start of a method."""
    one = jax.jit(lambda x, episode, key: by_hand(ByHand(episode, transductive), x, key))
    # The key of a task is split for the data and for the response.
    keys = [jax.random.split(key) for key in jax.random.split(jax.random.key(7), TASKS)]
    found = [one(start_of(x_of)[0], task(i), keys[i]) for i in range(TASKS)]
    return jax.tree.map(lambda *leaves: sum(leaves) / TASKS, *found)


def want(name, transductive=True):
    by_hand = BY_HAND[name]
    # Methods on the whole network start at the same x, so that they share by-hand gradients.
    whole = by_hand in (maml_by_hand, fomaml_by_hand, imaml_by_hand, reptile_by_hand)
    return truth(by_hand, "maml" if whole else name, transductive)


def close(got, want, rtol=1e-9):
    """Compare up to rounding of sums in another order: 1e-9 of the largest entry."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, c in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == jnp.float64
        np.testing.assert_allclose(a, c, rtol=0, atol=rtol * float(jnp.max(jnp.abs(c))) + 1e-14)


# Only one method of each kind runs all tasks at once, since compiling takes time.
AT_ONCE = ("maml", "fomaml", "ufo_blo", "anil", "itd_bio", "protonet")


@pytest.mark.parametrize("name, vectorize", [*((m, False) for m in METHODS), *((m, True) for m in AT_ONCE)])
def test_the_gradient_equals_that_of_a_plain_loop(name, vectorize):
    # The finite differences of pzobo divide by 1e-2, which costs two digits.
    close(gradient(name, vectorize=vectorize), want(name), 1e-7 if name == "pzobo" else 1e-9)


@pytest.mark.parametrize("name", ["fomaml", "itd_bio"])
def test_the_gradient_with_queries_normalised_by_the_support_equals_that_of_a_plain_loop(name):
    close(gradient(name, transductive=False), want(name, False))
    # The transductive gradient differs.
    difference = optax.tree.norm(optax.tree.sub(want(name), want(name, False)))
    assert difference > 0.01 * optax.tree.norm(want(name))


@pytest.mark.parametrize("name", ["maml", "itd_bio"])
def test_checkpoints_do_not_change_the_gradient(name):
    found = []
    for levels in range(3):
        learner = learners(name, network=plain_network, inner_steps=10, recompute=levels)
        x, state = one_step(learner, *learner.start(jax.random.key(1)))
        found.append(jax.tree.map(jnp.subtract, x, state.x))
    # The same sums in other programs.
    close(found[1], found[0], 1e-12)
    close(found[2], found[0], 1e-12)


def test_ufo_blo_with_recompute_refuses_momentum():
    with pytest.raises(ValueError, match="must have no state"):
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
    "imaml": functools.partial(whole_network, pull=VALUES["pull"]),
    "protonet": nearest_mean,
    "maml": whole_network,
    "itd_bio": fresh_head,
}
# Methods that differ in training only answer by the same program.
SAME_ANSWERS = {
    "fomaml": "maml",
    "reptile": "maml",
    "ufo_blo": "maml",
    "fo_itd_bio": "itd_bio",
    "pzobo": "itd_bio",
}


def test_the_answers_of_every_method_are_tested():
    assert {*ANSWERS, *SAME_ANSWERS} == {*METHODS}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_equal_those_of_a_plain_loop_for_fewer_and_more_ways(name):
    learner, (x, _) = learners(name), start_of(name)
    for ways in (2, 5) if learner.fresh_head else (2,):
        got = jax.jit(learner.answer, static_argnums=2)(x, task(1, ways), ways)
        assert got.shape == (2 * ways, ways)
        want = jax.jit(ANSWERS[name], static_argnums=2)(x, task(1, ways), ways)
        # Rounding of sums in another order; logits are of the order of 1.
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", SAME_ANSWERS)
def test_methods_that_differ_in_training_only_answer_by_the_same_program(name):
    def program(name):
        x, episode = start_of(name)[0], task(1, 2)
        text = str(jax.make_jaxpr(learners(name).answer, static_argnums=2)(x, episode, 2))
        return re.sub("0x[0-9a-f]+", "", text)

    assert program(name) == program(SAME_ANSWERS[name])
    assert learners(name).fresh_head == learners(SAME_ANSWERS[name]).fresh_head


@pytest.mark.parametrize("name", ["maml", "itd_bio"])
@pytest.mark.parametrize("transductive", [False, True])
def test_a_query_image_affects_the_others_only_if_transductive(name, transductive):
    learner, (x, _) = learners(name, transductive=transductive), start_of(name)
    episode = task(0)
    pixels = jnp.asarray(episode.query.pixels)
    other = episode._replace(query=episode.query._replace(pixels=pixels.at[0].set(-2 * pixels[0])))
    answer = jax.jit(learner.answer, static_argnums=2)
    before, after = answer(x, episode, WAYS), answer(x, other, WAYS)
    moved = np.abs(after - before).max(1)
    assert moved[0] > 1e-3
    # Otherwise the answers to the others are equal bit for bit.
    assert np.all(moved[1:] > 1e-6) if transductive else np.all(moved[1:] == 0)
