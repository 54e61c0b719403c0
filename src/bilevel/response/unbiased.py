"""The response that corrects a cheap one now and then, by as much as makes its mean exact."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.response.types import Pulled, Response, following
from bilevel.types import Cost, PyTree, require

tree = optax.tree


def unbiased(cheap: Response, exact: Response, probability: Any) -> Response:
    """The cheap response, debiased by the exact one with a given probability.

        o, e = cheap and exact pullback;   coin ~ Bernoulli(probability)
        x_bar = o + (coin / probability) (e - o)

    The mean is e for every probability, the variance (1 / probability - 1) |e - o|^2. (Second
    derivatives of y multiply two pullbacks with one coin, and are biased.) Tails skip the work of
    the exact pullback at run time. Under `vmap` over keys both sides are computed: there, leave the
    key out of the mapped part (`in_axes=None`).

    Args:
      cheap: usually `first_order`; carries no adjoint.
      exact: trains y the same way, for example `unrolled`.
      probability: of an exact pullback, in (0, 1]; may be traced.

    Returns:
      A `Response` that needs a key and carries the adjoint of `exact`.

    Raises:
      ValueError: when `probability` is not in (0, 1], or there is no key.

    Cost: at most (heads) that of `exact`, and that of `cheap` unless it is `first_order`, whose
    pullback reads no path.

    Reference: Likhosherstov, Song, Choromanski, Davis and Weller, Debiasing a First-order
    Heuristic for Approximate Bi-level Optimization, ICML 2021, arXiv:2106.02487.
    """
    require((probability > 0) & (probability <= 1), "probability must be in (0, 1]", probability)

    def respond(x, y0, batch, key):
        require(key is not None, "unbiased needs a key", key)
        coin_key, key = jax.random.split(key)
        y, exact_pullback = exact.respond(x, y0, batch, key)
        _, cheap_pullback = cheap.respond(x, y0, batch, key)
        # Drawn before either pullback: a coin that knew the value of e would bias the mean.
        coin = jax.random.bernoulli(coin_key, probability)

        def pullback(w, v):
            first, correction, v, residual = correct(coin, cheap_pullback, exact_pullback, w, v)
            return Pulled(tree.add_scale(first, 1 / probability, correction), v, residual)

        return y, pullback

    # Without products or further paths the cheap pullback reads no y of its own: its solve is dead code.
    pulls = cheap.cost.total > cheap.cost.gradients or cheap.cost.gradients > exact.cost.gradients
    own = cheap.cost if pulls else Cost()
    draws = max(cheap.draws, exact.draws)
    return Response(following(respond, exact.adjoint), exact.adjoint, draws, exact.cost.plus(own))


def correct(coin: Any, cheap_pullback: Callable, exact_pullback: Callable, w: PyTree, v: PyTree):
    """`(o, e - o, v, residual)` at heads and `(o, 0, v, 0)` at tails, where e is not computed."""
    first = cheap_pullback(w, v).x

    def heads():
        pulled = exact_pullback(w, v)
        return tree.sub(pulled.x, first), pulled.v, jnp.asarray(pulled.residual, w_dtype)

    def tails():
        return tree.zeros_like(first), v, jnp.zeros((), w_dtype)

    w_dtype = jnp.result_type(*jax.tree.leaves(w))
    return first, *lax.cond(coin, heads, tails)


def optimal_probability(
    second_moment: Any, bias: Any, cheap_cost: Any, exact_cost: Any, exponent: float = 1.0
) -> jax.Array:
    """The probability q of an exact pullback that reaches an accuracy at least cost.

        q minimises (second_moment + (1 / q - 1) bias)^exponent (cheap_cost + q exact_cost)

    That is the cost of a draw times the number of draws, where the number grows like a power of
    the second moment of the debiased gradient: 1 at a constant error, 2 for steps k^(-1/2).

    Args:
      second_moment: mean of |e|^2, e the exact gradient.
      bias: mean of |e - o|^2, o the cheap gradient.
      cheap_cost: of a draw without the exact pullback.
      exact_cost: what the exact pullback costs on top.
      exponent: of the second moment, positive.

    Returns:
      q in [0, 1]: 0 without bias, 1 where debiasing does not pay. All arguments may be traced.

    >>> optimal_probability(10.0, 1.0, cheap_cost=11, exact_cost=10)
    Array(0.34960294, dtype=float32, weak_type=True)

    Reference: Likhosherstov et al., ICML 2021, arXiv:2106.02487; the formula follows the authors'
    code, which has two exponents, 1/2 and 2.
    """
    a = (second_moment - bias) * exact_cost
    b = (1 - exponent) * bias * exact_cost
    c = -exponent * bias * cheap_cost
    square = b * b - 4 * a * c
    bottom = b + jnp.sqrt(jnp.maximum(square, 0))
    # The root in the form without a division by a, which may be zero; of two roots the minimum.
    root = jnp.where(bottom > 0, -2 * c / jnp.where(bottom > 0, bottom, 1), 1)
    root = jnp.where(square >= 0, jnp.minimum(root, 1), 1)

    def objective(q):
        return (second_moment + (1 / q - 1) * bias) ** exponent * (cheap_cost + q * exact_cost)

    # Where bias > second_moment the root may be a minimum that is worse than q = 1.
    inside = (root > 0) & (objective(jnp.where(root > 0, root, 1)) < objective(1.0))
    return jnp.where(bias <= 0, 0.0, jnp.where(inside, root, 1.0))
