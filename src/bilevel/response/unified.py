"""One formula for most hypergradients, with the weights of each method."""

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
    """Compute a hypergradient from weights: f_x minus a sum of cross products.

        gradient = f_x - sum_j add_j J(z_j) p_j,   j = 0 .. n - 1
        p_0 = start,   p_{-1} = 0
        p_{j+1} = keep_j p_j - product_j H(z_j) p_j + inertia_j p_{j-1} + source_j f_y(z_j)

    If all z_j are (x, y), the sum is J v with v = sum_j add_j p_j, a polynomial of H applied to f_y. In the
    table, eta is the step size of y or v, and y_0 .. y_K is the inner path with y = y_K. Weights that are
    not named have their default values.

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

    a_j is the step length and b_j the conjugacy coefficient of the j-th conjugate gradient step; both
    depend on f_y.

    Use this function to study and test weights. It computes n cross products, where a dedicated method
    computes one.

    Args:
      problem: the two losses.
      x, y: point at which f is evaluated.
      batch: two sources of minibatches. The products at `z_j` read the j-th minibatch of each, f reads
        the first.
      add: weights of the cross products, an array of shape (n,).
      keep, product, inertia, source: weights of the recursion, numbers or arrays of shape (n,), whose
        last entries are not used. `source=None` drops its term.
      path: the points z_j as `(xs, ys)`, each with a leading axis of length n; default: (x, y) for all j.
      start: p_0; default: f_y(x, y).

    Returns:
      The hypergradient, a pytree shaped like x.

    Cost: 1 gradient, n Hessian products, n cross products; n more gradients with `source`.

    >>> from bilevel import full
    >>> shift = Problem(lambda x, y, batch: 0.5 * (y - 3) ** 2, lambda x, y, batch: 0.5 * (y - x) ** 2)
    >>> float(unified_hypergradient(shift, 1.0, 1.0, full(None, None), add=jnp.array([1.0])))
    -2.0

    Reference: our derivation; a related view is in Li, Gu and Huang, A Fully Single Loop Algorithm for
    Bilevel Optimization without Hessian Inverse, AAAI 2022, arXiv:2112.04660.
    """
    f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
    add = jnp.asarray(add, jnp.result_type(*jax.tree.leaves(f_y)))
    count = add.shape[0]

    def step(carry, entry):
        last, p, total = carry
        j, z, (add, keep, product, inertia), source = entry
        x_j, y_j = (x, y) if z is None else z
        image = products(problem.inner, x_j, y_j, batch.inner[j], p)
        new_p = jax.tree.map(lambda p, h, l: keep * p - product * h + inertia * l, p, image.hessian, last)
        if source is not None:
            pull = jax.grad(problem.outer, argnums=1)(x_j, y_j, batch.outer[j])
            new_p = tree.add_scale(new_p, source, pull)
        return (p, new_p, tree.add_scale(total, add, image.cross)), None

    def spread(weight):
        return jnp.broadcast_to(jnp.asarray(weight, add.dtype), (count,))

    weights = add, spread(keep), spread(product), spread(inertia)
    entries = jnp.arange(count), path, weights, None if source is None else spread(source)
    p = f_y if start is None else start
    (_, _, total), _ = lax.scan(step, (tree.zeros_like(p), p, tree.zeros_like(f_x)), entries)
    return tree.sub(f_x, total)
