"""Networks that compute features of images, and a linear head on top of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bilevel.models.layers import BatchNorm, conv, max_pool
from bilevel.types import PyTree, require


class Network(NamedTuple):
    """Features of images, as pure functions.

    Attributes:
      name: shown in reports.
      init: `key -> parameters`.
      features: `(parameters, images, first=None) -> (n, width)`; images (n, height, width, channels).
        Batch normalisation uses the statistics of the first `first` images; None means all.
      width: number of features.
    """

    name: str
    init: Callable[[Any], PyTree]
    features: Callable[..., jax.Array]
    width: int


class Conv4(nn.Module):
    """Four blocks: 3x3 convolution, batch normalisation, ReLU, pooling or stride 2."""

    filters: int = 64
    pooling: str = "max"

    @nn.compact
    def __call__(self, images: jax.Array, first: int | None = None) -> jax.Array:
        """Return features (n, filters * remaining pixels)."""
        values = images
        for _ in range(4):
            pool = self.pooling == "max"
            values = conv(self.filters, stride=1 if pool else 2)(values)
            values = nn.relu(BatchNorm(pool=pool)(values, first))
        return values.reshape(len(values), -1)


class ResNet12(nn.Module):
    """Four residual blocks of three 3x3 convolutions; 12.4 million parameters."""

    filters: tuple[int, ...] = (64, 160, 320, 640)

    @nn.compact
    def __call__(self, images: jax.Array, first: int | None = None) -> jax.Array:
        """Return features (n, filters of the last block)."""
        values = images
        for filters in self.filters:
            short = BatchNorm()(nn.Dense(filters, use_bias=False)(values), first)
            for layer in range(3):
                values = BatchNorm()(conv(filters)(values), first)
                values = nn.leaky_relu(values, 0.1) if layer < 2 else values
            values = max_pool(nn.leaky_relu(values + short, 0.1))
        return jnp.mean(values, (1, 2))


class LeNet(nn.Module):
    """Two 5x5 convolutions with max-pooling, two linear layers, no normalisation."""

    @nn.compact
    def __call__(self, images: jax.Array, first: int | None = None) -> jax.Array:
        """Return features (n, 84)."""
        values = images
        for filters, padding in ((6, "SAME"), (16, "VALID")):
            values = max_pool(nn.relu(conv(filters, 5, bias=True, padding=padding)(values)))
        values = values.reshape(len(values), -1)
        for width in (120, 84):
            values = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal())(values))
        return values


MODULES = {
    "conv4-32": Conv4(32),
    "conv4-64": Conv4(64),
    "conv4-64-stride": Conv4(64, "stride"),
    "resnet12": ResNet12(),
    "lenet": LeNet(),
}
"""Flax modules of the networks, by name."""
LEAST_SIDE = 16


def network(name: str, image_shape: tuple[int, ...]) -> Network:
    """Return a network of the few-shot literature by name, for images of one size.

    Args:
      name: `conv4-32`, `conv4-64`, `conv4-64-stride`, `resnet12` or `lenet`.
      image_shape: (height, width, channels).

    Raises:
      ValueError: for an unknown name, or images smaller than 16x16 pixels.

    >>> network("conv4-64", (28, 28, 1)).width
    64
    """
    require(name in MODULES, f"network must be one of {', '.join(MODULES)}", repr(name))
    rule = f"images must be at least {LEAST_SIDE}x{LEAST_SIDE} pixels"
    require(min(image_shape[:2]) >= LEAST_SIDE, rule, "x".join(map(str, image_shape[:2])))
    return from_module(name, MODULES[name], image_shape)


def from_module(name: str, module: nn.Module, image_shape: tuple[int, ...]) -> Network:
    """Return a flax module `(images, first) -> (n, width)` as a `Network`."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    structure = jax.eval_shape(module.init, jax.random.key(0), image)
    width = jax.eval_shape(module.apply, structure, image).shape[-1]

    def init(key):
        return module.init(key, jnp.zeros((1, *image_shape), jnp.float32))["params"]

    def features(parameters, images, first=None) -> Any:
        return module.apply({"params": parameters}, images, first)

    return Network(name, init, features, width)


def head(key: Any, width: int, classes: int, scale: float = 1.0) -> PyTree:
    """Return a linear layer `{"kernel", "bias"}`; variance scale^2 / width."""
    kernel = jax.random.normal(key, (width, classes)) * (scale / width**0.5)
    return {"kernel": kernel, "bias": jnp.zeros(classes)}


def logits(head: PyTree, features: jax.Array) -> jax.Array:
    """Return the (n, classes) outputs of a linear head."""
    return features @ head["kernel"] + head["bias"]
