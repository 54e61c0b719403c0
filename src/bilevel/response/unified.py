"""One formula for most hypergradients: which powers of H, at which points, with which weights."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.calculus import products
from bilevel.types import Batch, Problem, PyTree

tree = optax.tree


def unified_hypergradient(
    problem: Problem,
    x: PyTree,
    y: PyTree,
    batch: Batch,
    *,
    add: Any,
    keep: Any = 1.0,
    product: Any = 0.0,
    inertia: Any = 0.0,
    source: Any = None,
    path: tuple[PyTree, PyTree] | None = None,
    start: PyTree = None,
) -> PyTree:
    """A hypergradient by its weights: f_x minus a sum of cross products.

        gradient = f_x - sum_j add_j J(z_j) p_j,   j = 0 .. n - 1
        p_0 = start,   p_{-1} = 0
        p_{j+1} = keep_j p_j - product_j H(z_j) p_j + inertia_j p_{j-1} + source_j f_y(z_j)

    With all z_j = (x, y) the sum is J v, v = sum_j add_j p_j, a polynomial of H applied to f_y. Let eta be
    the step of y or v, y_0 .. y_K the inner path, and y = y_K; weights not named are at their defaults.

        method                          n    add           other weights               z_j
        back-propagation                K    eta           product eta                 y_{K-1} .. y_0
        truncated back-propagation      M    eta           product eta                 y_{K-1} .. y_{K-M}
        one step (DARTS; T1-T2)         1    eta                                       y_0; y_1
        Neumann series, fixed point     K    eta           product eta                 y
        one random term (BSA, TTSA)     K    K eta at one  product eta                 y
                                             random j
        conjugate gradients (HOAG),     K    a_j           keep 1 + b_j, product a_j,  y
        Lanczos process (LancBiO)                          inertia -b_{j-1}
        heavy ball, step a, momentum b  K    a             keep 1 + b, product a,      y
                                                           inertia -b
        identity                        1    1                                         y
        diagonal D of an optimiser      1    1             start D f_y                 y
        first order                     1    0                                         y
        carried state (FSLA, SOBA)      K+1  1 at last     product eta, source eta,    the points of K steps,
                                                           start v_0                   oldest first, then now

    a_j is the step and b_j the conjugacy of the j-th conjugate gradient step; both depend on f_y.

    This is for reading, testing and trying weights: it makes n cross products where a method of its own
    makes one.

    Args:
      problem: the two losses.
      x, y: where f is read.
      batch: two sources of minibatches; `z_j` reads the j-th of each, f the first.
      add: weights of the cross products, an array of shape (n,).
      keep, product, inertia, source: weights of the recursion, numbers or arrays of shape (n,); the
        last entries are not used. `source` None leaves its term out.
      path: the z_j, `(xs, ys)`, each with a leading axis of n; None is (x, y) every time.
      start: p_0; f_y(x, y) when None.

    Returns:
      The hypergradient, a pytree shaped as x.

    Cost: 1 gradient, n Hessian products, n cross products; with `source` n gradients more.

    >>> from bilevel import full
    >>> shift = Problem(lambda x, y, batch: 0.5 * (y - 3) ** 2, lambda x, y, batch: 0.5 * (y - x) ** 2)
    >>> float(unified_hypergradient(shift, 1.0, 1.0, full(None, None), add=jnp.array([1.0])))
    -2.0

    Reference: derived here; Li, Gu and Huang, A Fully Single Loop Algorithm for Bilevel Optimization
    without Hessian Inverse, AAAI 2022, arXiv:2112.04660 has a view of this kind.
    """
    f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
    add = jnp.asarray(add, jnp.result_type(*jax.tree.leaves(f_y)))
    count = add.shape[0]

    def step(carry, entry):
        last, p, total = carry
        j, z, (add, keep, product, inertia), source = entry
        x_j, y_j = (x, y) if z is None else z
        image = products(problem.inner, x_j, y_j, batch.inner[j], p)
        following = jax.tree.map(lambda p, h, l: keep * p - product * h + inertia * l, p, image.hessian, last)
        if source is not None:
            pull = jax.grad(problem.outer, argnums=1)(x_j, y_j, batch.outer[j])
            following = tree.add_scale(following, source, pull)
        return (p, following, tree.add_scale(total, add, image.cross)), None

    def spread(weight):
        return jnp.broadcast_to(jnp.asarray(weight, add.dtype), (count,))

    weights = add, spread(keep), spread(product), spread(inertia)
    entries = jnp.arange(count), path, weights, None if source is None else spread(source)
    p = f_y if start is None else start
    (_, _, total), _ = lax.scan(step, (tree.zeros_like(p), p, tree.zeros_like(f_x)), entries)
    return tree.sub(f_x, total)
