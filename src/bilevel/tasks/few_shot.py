"""Features for many small tasks, whose heads together are the inner variable."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.datasets import ImageClasses, load_classes
from bilevel.sampling import full, minibatches
from bilevel.types import Problem, Task, require

TEST_TASKS, TEST_STEPS = 50, 50


def few_shot(
    dataset: str | ImageClasses = "omniglot",
    *,
    tasks: int = 16,
    ways: int = 5,
    shots: int = 5,
    queries: int = 5,
    network: str = "conv4-64-stride",
    penalty: float = 0.1,
    seed: int = 0,
) -> Task:
    """Learn features for many tasks, each with its own linear head.

        g(x, y) = mean_t CE of y_t on x's features of the support of t + (penalty / 2) |y_t|^2
        f(x, y) = mean_t CE of y_t on the features of the query of t

    The tasks are drawn once, from the training classes, so any bilevel algorithm can keep their
    heads. `bilevel fewshot`, in contrast, draws new tasks, with new heads, at every step.

    Args:
      dataset: `omniglot`, `miniimagenet`, or an `ImageClasses`.
      tasks: number of tasks.
      ways, shots, queries: classes of a task, support and query images per class.
      network: one of `models.MODULES`; x holds its parameters.
      penalty: weight of the heads' squared norm; it makes g strongly convex in y.
      seed: seed of the drawn tasks.

    Returns:
      A `Task` whose metrics are `outer_loss` over all tasks, and `test_accuracy` of heads trained on 50
      tasks of test classes.
    """
    # These modules import flax, which the other tasks do not need.
    from bilevel import models
    from bilevel.fewshot.episodes import Shape, as_episode, draw

    source = load_classes(dataset) if isinstance(dataset, str) else dataset
    require(tasks >= 1, "tasks must be at least 1", tasks)
    shape = Shape(ways, shots, queries)
    shape.validate(source.train, "training")
    shape.validate(source.test, "test")
    net = models.network(network, source.train.shape[2:])
    scale = np.asarray(source.mean, np.float32), np.asarray(source.std, np.float32)

    def episodes(images, count, key):
        one = jax.jit(lambda key, images: as_episode(*draw(key, images, shape), *scale))
        drawn = [one(key, images) for key in jax.random.split(key, count)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)

    training_key, test_key = jax.random.split(jax.random.key(seed))
    training = {
        "episode": episodes(jnp.asarray(source.train), tasks, training_key),
        "task": np.arange(tasks, dtype=np.int32),
    }
    held = jax.tree.map(jnp.asarray, episodes(jnp.asarray(source.test), TEST_TASKS, test_key))

    def features(x, images):
        return jax.vmap(lambda pixels: net.features(x, pixels))(images.pixels)

    def outputs(heads, values):
        return jax.vmap(models.logits)(heads, values)

    def loss(heads, values, labels):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs(heads, values), labels))

    def own(y, batch):
        return jax.tree.map(lambda leaf: leaf[batch["task"]], y)

    def on_support(heads, values, labels):
        squares = optax.tree.norm(heads, squared=True) / len(labels)
        return loss(heads, values, labels) + 0.5 * penalty * squares

    def inner(x, y, batch):
        support = batch["episode"].support
        return on_support(own(y, batch), features(x, support), support.labels)

    def outer(x, y, batch):
        query = batch["episode"].query
        return loss(own(y, batch), features(x, query), query.labels)

    # The Hessian of a head's cross-entropy is at most half the Gram matrix of its features.
    values = np.asarray(features(net.init(jax.random.key(seed)), training["episode"].support))
    norms = [np.linalg.norm(np.c_[v, np.ones(len(v))], 2) ** 2 / len(v) for v in values]
    step = float(1 / (0.5 * max(norms) + penalty))

    def zero(count):
        kernel = jnp.zeros((count, net.width, ways), values.dtype)
        return {"kernel": kernel, "bias": jnp.zeros((count, ways), values.dtype)}

    def start(key):
        return net.init(key), zero(tasks)

    def metrics(x, y, held):
        batch = jax.tree.map(jnp.asarray, training)
        values, labels = features(x, held.support), held.support.labels

        def descend(i, heads):
            slopes = jax.grad(on_support)(heads, values, labels)
            return optax.tree.add_scale(heads, -step * TEST_TASKS, slopes)

        heads = jax.lax.fori_loop(0, TEST_STEPS, descend, zero(TEST_TASKS))
        found = jnp.argmax(outputs(heads, features(x, held.query)), -1).astype(jnp.int32)
        hits = jnp.mean((found == held.query.labels).astype(jnp.float32))
        return {"outer_loss": outer(x, y, batch), "test_accuracy": hits}

    def by_minibatch(batch_size):
        return minibatches(training, training, batch_size=batch_size, seed=seed)

    x, y = start(jax.random.key(seed))
    return Task(
        name="few_shot",
        dataset=source.name,
        problem=Problem(outer, inner),
        data=full(*jax.tree.map(jnp.asarray, (training, training))),
        x=x,
        y=y,
        minibatches=by_minibatch,
        batch_size=min(4, tasks),
        start=start,
        metrics=metrics,
        held=held,
        # The loss is a mean over the tasks of a minibatch, and each head belongs to one task.
        inner_step=step * min(4, tasks),
        outer_step=0.1,
    )
