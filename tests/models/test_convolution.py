"""Values, first and second derivatives of the convolution, against those of lax."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from bilevel.models import convolution

ORDER = ("NHWC", "HWIO", "NHWC")
# Images, kernel, strides, padding. Cases of 16 channels and more are tiled (Winograd). Cases whose windows
# have no more entries than there are features are one matrix product.
CASES = {
    "three": ((2, 5, 6, 2), (3, 3, 2, 3), (1, 1), "SAME"),
    "lopsided": ((2, 5, 6, 2), (5, 2, 2, 3), (1, 1), ((3, 0), (-1, 4))),
    "few channels, lopsided": ((2, 5, 6, 1), (3, 2, 1, 7), (1, 1), ((3, 0), (-1, 4))),
    "one pixel": ((2, 4, 5, 2), (1, 1, 2, 3), (1, 1), "VALID"),
    "one pixel, stride 2": ((1, 5, 4, 2), (1, 1, 2, 3), (2, 2), "VALID"),
    "even kernel, odd image, stride 2": ((1, 5, 7, 1), (2, 4, 1, 3), (2, 2), "VALID"),
    "lopsided, stride 2": ((2, 5, 6, 2), (3, 2, 2, 3), (2, 2), ((2, 0), (-1, 4))),
    "strides 2 and 3": ((2, 7, 9, 2), (4, 3, 2, 3), (2, 3), "SAME"),
    "tiled": ((2, 7, 8, 16), (3, 3, 16, 17), (1, 1), "SAME"),
    "tiled, lopsided": ((1, 5, 6, 16), (3, 3, 16, 16), (1, 1), ((3, 0), (-1, 4))),
}


def native(inputs, kernel, strides, padding):
    return lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=ORDER)


def problem(name, key):
    """Return images, kernel, a direction for each, and (ours, native) functions."""
    images, kernel, strides, padding = CASES[name]
    keys = jax.random.split(key, 4)
    shapes = (images, kernel, images, kernel)
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]

    def bound(convolve):
        return lambda inputs, kernel: convolve(inputs, kernel, strides, padding)

    return arrays, (bound(convolution), bound(native))


def assert_same(function, convolutions):
    ours, theirs = (jax.jit(lambda c=c: function(c))() for c in convolutions)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.shape == other.shape
        # Rounding in float64, of sums of up to 9 x 17 terms of size 1 and their derivatives.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * (1 + float(jnp.abs(other).max())))
    return ours


@pytest.mark.parametrize("name", CASES)
def test_values_and_first_derivatives_equal_those_of_lax(name, key):
    (x, w, dx, dw), convolutions = problem(name, key)

    def values(convolve):
        value, tangent = jax.jvp(convolve, (x, w), (dx, dw))
        jacobian = jax.jacrev(lambda t: convolve(x + t * dx, w + t * dw).sum((0, 1)))(0.5)
        return value, tangent, jax.vjp(convolve, x, w)[1](tangent), jacobian

    assert_same(values, convolutions)


@pytest.mark.parametrize(
    "name", ["lopsided", "lopsided, stride 2", "few channels, lopsided", "tiled, lopsided"]
)
def test_second_derivatives_equal_those_of_lax_in_every_mode(name, key):
    (x, w, dx, dw), convolutions = problem(name, key)

    def products(convolve):
        def loss(point):
            return jnp.sum(jnp.sin(convolve(*point)))

        def slope(point):
            return jax.jvp(loss, (point,), ((dx, dw),))[1]

        def inner_product(point):
            return optax.tree.vdot(jax.grad(loss)(point), (dx, dw))

        forward_over_reverse = jax.jvp(jax.grad(loss), ((x, w),), ((dx, dw),))[1]
        reverse_over_reverse = jax.grad(inner_product)((x, w))
        forward_over_forward = jax.jvp(slope, ((x, w),), ((dx, dw),))[1]
        return forward_over_reverse, reverse_over_reverse, forward_over_forward

    ways = assert_same(products, convolutions)
    for one, other in zip(jax.tree.leaves(ways[0]), jax.tree.leaves(ways[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * float(jnp.abs(other).max()))


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (2, 1)], ids=str)
@pytest.mark.parametrize("name", ["three", "few channels, lopsided", "tiled"])
def test_vmap_inside_and_outside_of_grad_equals_that_of_lax(name, axes, key):
    (x, w, dx, dw), convolutions = problem(name, key)
    stacked = [
        one if axis is None else jnp.stack([one, one + other, other], axis)
        for one, other, axis in ((x, dx, axes[0]), (w, dw, axes[1]))
    ]

    def batched(convolve):
        def loss(inputs, kernel):
            return jnp.sum(jnp.sin(convolve(inputs, kernel)))

        def total(inputs, kernel):
            return jax.vmap(loss, axes)(inputs, kernel).sum()

        values = jax.vmap(convolve, axes)(*stacked)
        return values, jax.vmap(jax.grad(loss, (0, 1)), axes)(*stacked), jax.grad(total, (0, 1))(*stacked)

    assert_same(batched, convolutions)


def test_many_images_are_processed_in_parts_and_the_last_may_be_shorter(key):
    # 33 images of 16 tiles; 512 tiles make a part.
    x, w = jax.random.normal(key, (33, 18, 15, 16)), jax.random.normal(key, (3, 3, 16, 16))
    assert_same(
        lambda convolve: jax.grad(lambda *pair: jnp.sum(jnp.sin(convolve(*pair, (1, 1), "VALID"))), (0, 1))(
            x, w
        ),
        (convolution, native),
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_sums_the_derivative_of_the_kernel_in_single_precision(dtype):
    # 64 parts of 32 images; the middle of the kernel sees every pixel. Sums before the transform of the
    # kernel exceed the result, and the range of float16.
    x, w = jnp.ones((2048, 16, 16, 16), dtype), jnp.zeros((3, 3, 16, 16), dtype)
    scale = jnp.asarray(0.05, dtype)
    slopes = jax.grad(lambda w: jnp.sum(convolution(x, w, (1, 1), "SAME") * scale))(w)
    assert slopes.dtype == dtype
    np.testing.assert_allclose(slopes[1, 1].astype(float), 2048 * 256 * float(scale), rtol=0.02)


@pytest.mark.parametrize(
    ("images", "kernel"),
    [((1, 2, 2, 1), (4, 4, 1, 16)), ((1, 2, 2, 1), (3, 3, 1, 16)), ((0, 4, 4, 1), (3, 3, 1, 16))],
    ids=["window beyond the image", "just beyond", "no images"],
)
def test_outputs_are_empty_where_no_window_fits(images, kernel):
    found = convolution(jnp.ones(images), jnp.ones(kernel), (1, 1), "VALID")
    assert found.shape == native(jnp.ones(images), jnp.ones(kernel), (1, 1), "VALID").shape
    assert found.size == 0


@pytest.mark.parametrize("name", ["three", "tiled"])
def test_nested_vmap_gives_every_pair(name, key):
    (x, w, dx, dw), convolutions = problem(name, key)
    inputs, kernels = jnp.stack([x, dx]), jnp.stack([w, dw, w + dw])

    def pairs(convolve):
        along_kernels = jax.vmap(convolve, (None, 0))
        return jax.vmap(along_kernels, (0, None))(inputs, kernels)

    assert_same(pairs, convolutions)


def steps(convolve, strides, padding):
    """Return the gradient through three steps on a kernel: derivatives in loops."""

    def loss(kernel, images):
        return jnp.mean(jnp.sin(convolve(images, kernel, strides, padding)))

    def end(kernel, images):
        def step(kernel, _):
            return kernel - 0.1 * jax.grad(loss)(kernel, images), None

        return loss(lax.scan(step, kernel, None, length=3)[0], images)

    return jax.grad(end)


def forms(function, *arguments):
    """Return dimension numbers and reversed windows of the unoptimised program."""
    text = jax.jit(function).lower(*arguments).as_text()
    assert "stablehlo.convolution" in text or "stablehlo.dot_general" in text
    return set(re.findall(r"dim_numbers = [^,]*(?:, [^,=]*)*(?=, window)|reverse = \[[^\]]*true", text))


@pytest.mark.parametrize("name", CASES)
def test_loops_contain_only_the_form_that_is_fast_on_cpu(name, key):
    (x, w, _, _), _ = problem(name, key)
    strides, padding = CASES[name][2:]
    ours = forms(steps(convolution, strides, padding), w, x)
    standard = forms(lambda images, kernel: native(images, kernel, (1, 1), "SAME"), x, w)
    assert len(standard) == 1
    # The other cases are matrix products.
    assert ours == (standard if name in ("three", "lopsided") else set())
    # The test sees the slow forms of the native convolution.
    assert len(forms(steps(native, strides, padding), w, x)) > 1


@pytest.mark.parametrize("name", ["lopsided, stride 2", "few channels, lopsided", "tiled"])
def test_float32_stays_float32_with_its_accuracy(name, key):
    (x, w, _, _), (ours, theirs) = problem(name, key)
    single = [array.astype(jnp.float32) for array in (x, w)]

    def all_of(convolve):
        gradient = jax.grad(lambda inputs, kernel: jnp.sum(jnp.sin(convolve(inputs, kernel))), (0, 1))
        return jax.jit(lambda *pair: (convolve(*pair), *gradient(*pair)))

    for one, other in zip(all_of(ours)(*single), all_of(theirs)(x, w), strict=True):
        assert one.dtype == jnp.float32
        # Tiles lose a factor of 2 to 6 on float32's 6e-8, times the growth of sums of 144 terms.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(jnp.abs(other).max()))


def test_flax_layers_can_use_the_convolution(key):
    images = jax.random.normal(key, (2, 9, 8, 3))

    def network(convolve):
        def layer(**options):
            return nn.Conv(16, (3, 3), param_dtype=jnp.float64, conv_general_dilated=convolve, **options)

        return nn.Sequential([layer(), nn.relu, layer(), nn.relu, layer(strides=2, padding="VALID")])

    params = jax.jit(network(lax.conv_general_dilated).init)(key, images)

    def gradient(convolve):
        apply: Any = network(convolve).apply
        return jax.grad(lambda params: jnp.sum(jnp.sin(apply(params, images))))(params)

    assert_same(gradient, (convolution, lax.conv_general_dilated))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"lhs_dilation": (2, 2)}, r"dilations \(2, 2\) and None"),
        ({"rhs_dilation": (1, 2)}, r"dilations None and \(1, 2\)"),
        ({"feature_group_count": 2}, "2 groups"),
    ],
    ids=str,
)
def test_unsupported_options_are_errors_that_name_the_alternative(options, found):
    with pytest.raises(ValueError, match=f"{found}.*use lax.conv_general_dilated"):
        convolution(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2)), (1, 1), "SAME", **options)
