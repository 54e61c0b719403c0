"""The mixed-mode inner gradient and the products, against plain automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import descend, first_order, full, inner_gradient, solution
from bilevel.calculus import gradient_and_products, hessian_operator, hessian_product, products
from bilevel.sampling import Full, Stacked
from cases.problems import quadratic_case, quartic_case

CASE = quartic_case()
Y = jnp.asarray(np.random.default_rng(1).normal(size=5))
W = jnp.asarray(np.random.default_rng(2).normal(size=5))


def plain(x, y, batch):
    return jax.grad(CASE.problem.inner, argnums=1)(x, y, batch)


def test_inner_gradient_equals_plain_gradient_to_third_order():
    mixed = inner_gradient(CASE.problem.inner)

    def third(gradient):
        first = jax.jacrev(gradient, argnums=(0, 1))
        second = jax.jacrev(lambda x, y: first(x, y, None), argnums=(0, 1))
        return gradient(CASE.x, Y, None), first(CASE.x, Y, None), second(CASE.x, Y)

    # Same arithmetic in another order: rounding only.
    for got, want in zip(jax.tree.leaves(third(mixed)), jax.tree.leaves(third(plain)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-13)


def test_inner_gradient_keeps_only_the_iterates_of_a_scan():
    width, steps, rows = 16, 7, 500
    features = jnp.ones((rows, width))

    def inner(x, y, batch):
        return jnp.mean(jnp.tanh(features @ y) ** 2) * x

    gradient = inner_gradient(inner)

    def loss(x, gradient):
        y, _ = jax.lax.scan(
            lambda y, _: (y - 0.1 * gradient(x, y, None), None), jnp.ones(width), length=steps
        )
        return y.sum()

    def saved_entries(gradient):
        _, vjp = jax.vjp(lambda x: loss(x, gradient), 1.0)
        return sum(leaf.size for leaf in jax.tree.leaves(vjp) if leaf.shape != features.shape)

    # Iterates: steps x width; a double backward also keeps activations: steps x rows and more.
    assert saved_entries(gradient) <= 2 * steps * width + 10
    assert saved_entries(jax.grad(inner, argnums=1)) > steps * rows


def test_the_inner_gradient_cannot_be_differentiated_with_respect_to_data():
    gradient = inner_gradient(lambda x, y, batch: batch * x * y**2)
    with pytest.raises(
        ValueError, match="with respect to its data; put the quantity that you differentiate in `x`"
    ):
        jax.grad(lambda batch: gradient(1.0, 2.0, batch))(3.0)
    assert jax.grad(gradient)(1.0, 2.0, jnp.asarray(3)) == 12.0
    response = first_order(descend(CASE.problem, 0.1, 1))
    with pytest.raises(
        ValueError, match="with respect to its data; put the quantity that you differentiate in `x`"
    ):
        jax.grad(lambda data: solution(response)(CASE.x, Y, full(None, data)).sum())(Y)


def test_the_inner_gradient_cannot_be_differentiated_with_respect_to_a_value_that_its_loss_closes_over():
    def slope(theta):
        return inner_gradient(lambda x, y, batch: theta * x * y**2)(1.0, 2.0, None)

    for derivative in (jax.grad(slope), jax.grad(jax.jit(slope)), jax.jit(jax.grad(slope))):
        with pytest.raises(ValueError, match="a value that its loss closes over; put the quantity"):
            derivative(3.0)
    np.testing.assert_array_equal(jax.vmap(slope)(jnp.arange(3.0)), [0, 4, 8])


def test_products_equal_explicit_second_derivatives():
    H = jax.hessian(CASE.problem.inner, argnums=1)(CASE.x, Y, None)
    J = jax.jacfwd(jax.grad(CASE.problem.inner), argnums=1)(CASE.x, Y, None)
    got = products(CASE.problem.inner, CASE.x, Y, None, W)
    np.testing.assert_allclose(got.hessian, H @ W, atol=1e-13)
    np.testing.assert_allclose(got.cross, J @ W, atol=1e-13)
    np.testing.assert_allclose(hessian_product(CASE.problem.inner, CASE.x, Y, None, W), H @ W, atol=1e-13)
    g_y, both = gradient_and_products(CASE.problem.inner, CASE.x, Y, None, W)
    np.testing.assert_allclose(g_y, plain(CASE.x, Y, None), atol=1e-13)
    np.testing.assert_allclose(both.cross, J @ W, atol=1e-13)


def test_hessian_operator_linearises_full_data_once_and_reads_the_right_minibatch():
    calls = []

    def inner(x, y, batch):
        calls.append(1)
        return 0.5 * jnp.sum(batch * y**2)

    operator = hessian_operator(inner, 0.0, Y, Full(jnp.full(5, 3.0)))
    traced = len(calls)
    np.testing.assert_allclose(operator(0)(W), 3 * W)
    np.testing.assert_allclose(operator(1)(W), 3 * W)
    assert len(calls) == traced
    operator = hessian_operator(inner, 0.0, Y, Stacked(jnp.array([[1.0] * 5, [2.0] * 5])))
    np.testing.assert_allclose(operator(1)(W), 2 * W)


def test_products_of_dict_variables_keep_their_structure():
    case = quadratic_case()
    got = products(case.problem.inner, case.x, case.y, None, case.y)
    assert jax.tree.structure(got.cross) == jax.tree.structure(case.x)
    assert jax.tree.structure(got.hessian) == jax.tree.structure(case.y)
