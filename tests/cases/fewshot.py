"""Small images by class, and a small network that is also written by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel import models
from bilevel.datasets.pictures import image_classes
from bilevel.models.layers import BatchNorm, conv


class Small(nn.Module):
    """Two smooth layers; the first has stride 2 and batch normalisation."""

    @nn.compact
    def __call__(self, images, first=None):
        values = nn.tanh(BatchNorm()(conv(3, stride=2)(images), first))
        values = nn.tanh(conv(2)(values))
        return values.reshape(len(values), -1)


def small_network(side=8):
    """Return `Small` for square images of one channel."""
    return models.from_module("small", Small(), (side, side, 1))


class Plain(nn.Module):
    """One linear layer of width 4 and tanh; it compiles fast."""

    @nn.compact
    def __call__(self, images, first=None):
        return nn.tanh(nn.Dense(4)(images.reshape(len(images), -1)))


def plain_network(side=8):
    """Return `Plain` for square images of one channel."""
    return models.from_module("plain", Plain(), (side, side, 1))


def features_by_hand(parameters, images, first=None):
    """Compute the features of `Small` with `lax` and the variance in two passes."""

    def convolved(values, layer, stride):
        kernel = parameters[layer]["kernel"]
        return lax.conv_general_dilated(
            values, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    values = convolved(images, "Conv_0", 2)
    mean, variance = values[:first].mean((0, 1, 2)), values[:first].var((0, 1, 2))
    norm = parameters["BatchNorm_0"]
    values = (values - mean) / jnp.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
    values = jnp.tanh(convolved(jnp.tanh(values), "Conv_1", 1))
    return values.reshape(len(images), -1)


def noisy_prototypes(name="toy", sizes=(12, 8, 8), each=20, side=16, noise=60.0):
    """Return classes whose images are one coarse pattern plus noise."""
    random = np.random.default_rng(0)

    def part(classes):
        coarse = random.integers(60, 196, (classes, 1, side // 4, side // 4, 1))
        patterns = coarse.repeat(4, axis=2).repeat(4, axis=3)
        noisy = patterns + noise * random.normal(size=(classes, each, side, side, 1))
        return np.clip(noisy, 0, 255).astype(np.uint8)

    return image_classes(name, *map(part, sizes))


def as_double(tree):
    """Return the tree in float64."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)
