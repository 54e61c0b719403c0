"""The check of a linear solver."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.linear.types import LinearSolver
from bilevel.testing.asserting import (
    assert_close,
    assert_equal,
    assert_finite,
    assert_same_shape,
    assert_true,
    to_single,
)
from bilevel.testing.counting import counted_zero
from bilevel.testing.quadratic import H, as_y, cotangent, flat, on_host, variables

tree = optax.tree


def check_linear_solver(
    solver: LinearSolver,
    *,
    exact: bool = True,
    tolerance: float = 1e-8,
    damping: float = 0.0,
    stops_early: bool = False,
    key: Any = None,
) -> None:
    """Check a `LinearSolver` on a system of 3 unknowns.

    H has the eigenvalues 0.5, 0.75 and 1. The check covers the structure and dtype of the solution, the
    residual, `jit`, `vmap`, the starting point, `draws`, `products` and `start_products`, and with `exact`
    the solution and its derivatives.

    Args:
      solver: the solver, with settings that suit H.
      exact: whether the solver converges to the exact solution.
      tolerance: relative error of the solution and its derivatives if `exact`.
      damping: what the solver adds to the diagonal of H.
      stops_early: whether the solver may make fewer products than it declares.
      key: random key, for solvers that need one.

    Raises:
      AssertionError: when the solver breaks the protocol.

    >>> import bilevel
    >>> check_linear_solver(bilevel.cg(3, damping=0.1), damping=0.1)
    """
    with jax.enable_x64(True):
        _check(solver, exact, tolerance, damping, stops_early, key)


def _check(solver, exact, tolerance, damping, stops_early, key):
    b, v0 = cotangent(), variables()[1]
    damped = H + damping * np.eye(3)

    def solve(scale, b, v0, on_product=None):
        def operator(i):
            # A minibatch beyond the declared ones is NaN.
            weight = jnp.where(i < solver.draws, scale, jnp.nan)

            def matvec(w):
                image = weight.astype(flat(w).dtype) * (jnp.asarray(H, flat(w).dtype) @ flat(w))
                if on_product is not None:
                    image = image + counted_zero(on_product, image)
                return as_y(image)

            return matvec

        return solver.solve(operator, b, v0, key)

    one = jnp.asarray(np.ones(()))
    for arguments in ((one, b, v0), to_single((one, b, v0))):
        v, residual = jax.eval_shape(solve, *arguments)
        assert_same_shape(v, arguments[1], "v must be shaped like b")
        assert_equal(np.shape(residual), (), "the residual must be a scalar")

    @jax.jit
    def compiled(b):
        from_zero = solve(one, b, tree.zeros_like(b))[0]
        pair = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), b)
        several = jax.vmap(lambda b: solve(one, b, v0)[0])(pair)
        first = jax.tree.map(lambda leaf: leaf[0], several)
        return solve(one, b, v0), solve(one, b, None)[0], from_zero, first

    (v, residual), from_none, from_zero, first = compiled(b)
    assert_finite(v, f"the solver must read operator(0) to operator({solver.draws - 1}) only, as draws says")
    want = np.linalg.norm(on_host(b) - damped @ on_host(v)) / np.linalg.norm(on_host(b))
    assert_close(residual, want, 1e-9, "the residual must be ||b - H v|| / ||b||")
    assert_close(from_none, from_zero, 1e-12, "v0=None must mean zero")
    assert_close(first, v, 1e-12, "v must be the same under vmap")
    assert_close(solve(one, b, v0)[0], v, 1e-12, "v must be the same with and without jit")

    if exact:
        want = np.linalg.solve(damped, on_host(b))
        assert_close(v, as_y(want), tolerance, "v must be the solution")

        @jax.jit
        def pulled(w):
            return jax.vjp(lambda scale, b: solve(scale, b, v0)[0], one, b)[1](w)

        by_scale, by_b = pulled(b)
        assert_close(by_b, as_y(want), tolerance, "the derivative of v in b must be the inverse of H")
        assert_close(by_scale, -want @ H @ want, tolerance, "the derivative of v in H must be -H^-1 dH v")

    for start, declared in ((v0, solver.products), (None, solver.products - solver.start_products)):
        if solver.products:
            made = _count(solve, b, start)
            claim = f"products of one solve from v0={'None' if start is None else 'a point'}"
            if stops_early:
                assert_true(made <= declared, f"{claim}: got {made}, expected at most {declared}")
            else:
                assert_equal(made, declared, claim)


def _count(solve, b, v0):
    products = []
    # Only v is returned, so the product that measures the residual is not computed.
    compiled = jax.jit(lambda b: solve(jnp.ones(()), b, v0, lambda: products.append(1))[0])
    jax.block_until_ready(compiled(b))
    return len(products)
