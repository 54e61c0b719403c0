"""N-way K-shot episodes drawn from images by class, on the device or on the host."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.sampling import Host
from bilevel.types import require


class Images(NamedTuple):
    """Images with their labels.

    Attributes:
      pixels: (n, height, width, channels) float32.
      labels: (n,) int32, number of the class within its episode.
    """

    pixels: Any
    labels: Any


class Episode(NamedTuple):
    """One few-shot task.

    Attributes:
      support: images to learn from.
      query: other images of the same classes, to classify.
    """

    support: Images
    query: Images


class Shape(NamedTuple):
    """Numbers of classes and images of an episode.

    Attributes:
      ways: classes.
      shots: support images per class.
      queries: query images per class.
    """

    ways: int
    shots: int
    queries: int

    def validate(self, images: np.ndarray, part: str) -> None:
        """Raise unless episodes of this shape can be drawn from the images.

        Args:
          images: (classes, images per class, ...).
          part: name of these images in messages: "training", "validation" or "test".

        Raises:
          ValueError: when there are too few classes, or too few images per class.
        """
        classes, each = images.shape[:2]
        require(self.ways >= 2, "ways must be at least 2", self.ways)
        require(self.shots >= 1, "shots must be at least 1", self.shots)
        require(self.queries >= 1, "queries must be at least 1", self.queries)
        rule = f"ways must be at most {classes}, the number of {part} classes"
        require(self.ways <= classes, rule, self.ways)
        total = self.shots + self.queries
        rule = f"shots + queries must be at most {each}, the number of images of a {part} class"
        require(total <= each, rule, f"{self.shots} + {self.queries}")


def draw(key: Any, images: jax.Array, shape: Shape) -> tuple[jax.Array, jax.Array]:
    """Draw the pixels of an episode, `(ways, shots, ...)` and `(ways, queries, ...)`.

    Classes are drawn without replacement, and so are the images of each class.
    """
    class_key, image_key = jax.random.split(key)
    classes = jax.random.choice(class_key, images.shape[0], (shape.ways,), replace=False)

    def some(key):
        return jax.random.choice(key, images.shape[1], (shape.shots + shape.queries,), replace=False)

    picks = jax.vmap(some)(jax.random.split(image_key, shape.ways))
    found = images[classes[:, None], picks]
    return found[:, : shape.shots], found[:, shape.shots :]


def as_episode(support: Any, query: Any, mean: Any, std: Any) -> Episode:
    """Return stored pixels, 0 to 255, as an `Episode`.

    Args:
      support, query: (ways, images per class, height, width, channels).
      mean, std: mean and standard deviation of the pixels divided by 255, one number per channel.
    """
    mean, std = (jnp.asarray(value, jnp.float32) for value in (mean, std))

    def labelled(images):
        pixels = (images.reshape(-1, *images.shape[2:]).astype(jnp.float32) / 255 - mean) / std
        return Images(pixels, jnp.repeat(jnp.arange(images.shape[0], dtype=jnp.int32), images.shape[1]))

    return Episode(labelled(support), labelled(query))


def dealt_again(episode: Episode, ways: int, key: Any) -> Episode:
    """Return the episode with a new random split of the images of each class."""

    def by_class(images):
        return images.pixels.reshape(ways, -1, *images.pixels.shape[1:])

    support, query = episode
    both = jnp.concatenate([by_class(support), by_class(query)], axis=1)
    both = jax.vmap(jax.random.permutation)(jax.random.split(key, ways), both)
    shots = len(support.labels) // ways
    dealt = (part.reshape(-1, *part.shape[2:]) for part in (both[:, :shots], both[:, shots:]))
    return Episode(*map(Images, dealt, (support.labels, query.labels)))


def fixed_episodes(images: np.ndarray, mean: Any, std: Any, shape: Shape, count: int) -> Episode:
    """Return `count` episodes along a leading axis, the same ones at every call."""
    stored, keys = jnp.asarray(images), jax.random.split(jax.random.key(1), count)
    return lax.map(lambda key: as_episode(*draw(key, stored, shape), mean, std), keys)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["images", "mean", "std", "keys"],
    meta_fields=["shape", "tasks"],
)
@dataclass(frozen=True)
class Episodes:
    """A source of minibatches of episodes, drawn inside the compiled loop.

    The i-th minibatch of a run depends on the key of the run and on i only.

    Attributes:
      images: (classes, images per class, height, width, channels) uint8.
      mean, std: mean and standard deviation of the training pixels divided by 255, one number per channel.
      keys: one key for each minibatch `self[i]`, or None before planning.
      shape: shape of an episode.
      tasks: number of episodes in a minibatch.
    """

    images: Any
    mean: Any
    std: Any
    keys: Any
    shape: Shape
    tasks: int
    is_full = False

    def __getitem__(self, i):
        keys = jax.random.split(self.keys[i], self.tasks)

        def one(key):
            return as_episode(*draw(key, self.images, self.shape), self.mean, self.std)

        return jax.vmap(one)(keys)

    def plan(self, key: Any, first: Any, count: int, fixed: bool = False) -> jax.Array:
        """Return the keys of the minibatches `first` to `first + count - 1`."""
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count))

    def view(self, picks: Any) -> "Episodes":
        """Return the source of the minibatches that the keys `picks` give."""
        return replace(self, keys=picks)

    def whole(self) -> Any:
        """Raise `ValueError`: the number of episodes is not finite."""
        raise ValueError(
            "this algorithm needs the full data set at its refreshes, but episodes are generated and have "
            "no full set; use an algorithm without refreshes"
        )


def host_episodes(
    images: np.ndarray, mean: Any, std: Any, shape: Shape, tasks: int, *, seed: int = 0
) -> Host:
    """Return a source that draws on the host, for images that exceed device memory.

    Args:
      images: (classes, images per class, height, width, channels) uint8. Only the images that
        are drawn are read from a `numpy.memmap`.
      mean, std: mean and standard deviation of the training pixels divided by 255, one number per channel.
      shape: shape of an episode.
      tasks: number of episodes in a minibatch.
      seed: seed of the draws. A minibatch depends on the seed and its number only.

    Returns:
      A `Host` source. Its episodes differ from those of `Episodes`.
    """
    classes, each = images.shape[:2]

    def one(rng):
        chosen = rng.choice(classes, shape.ways, replace=False)
        picks = np.stack([rng.choice(each, shape.shots + shape.queries, replace=False) for _ in chosen])
        found = np.stack([images[c, p] for c, p in zip(chosen, picks, strict=True)])
        return jax.tree.map(
            np.asarray, as_episode(found[:, : shape.shots], found[:, shape.shots :], mean, std)
        )

    def fetch(i):
        rng = np.random.default_rng((seed, i))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *(one(rng) for _ in range(tasks)))

    return Host(fetch)
