"""Random corrections of a cheap response that make its mean exact."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.response.types import Pullback, Pulled, Response, following
from bilevel.types import Cost, PyTree, require

tree = optax.tree


def unbiased(cheap: Response, exact: Response, probability: Any) -> Response:
    """Return a cheap response, debiased at random by an exact one.

        o, e = cheap and exact pullback;   coin ~ Bernoulli(probability)
        x_bar = o + (coin / probability) (e - o)

    The mean is e for every probability, and the variance is (1 / probability - 1) |e - o|^2. On tails
    the exact pullback is not computed. `vmap` over keys computes both sides always: leave the key out of
    the mapped part (`in_axes=None`). Second derivatives of y multiply two pullbacks with the same coin,
    and are biased.

    Args:
      cheap: usually `first_order`; it must carry no adjoint.
      exact: trains y in the same way, for example `unrolled`.
      probability: probability of an exact pullback, in (0, 1]; it may be traced.

    Returns:
      A `Response` that needs a key and carries the adjoint of `exact`.

    Raises:
      ValueError: when `probability` is not in (0, 1], and in `respond` when there is no key.

    Cost: at most, on heads, the cost of `exact` and of `cheap`. `first_order` adds nothing, since its
    pullback does not read the trained y.

    Reference: Likhosherstov, Song, Choromanski, Davis and Weller, Debiasing a First-order
    Heuristic for Approximate Bi-level Optimization, ICML 2021, arXiv:2106.02487.
    """
    require((probability > 0) & (probability <= 1), "probability must be in (0, 1]", probability)

    def respond(x, y0, batch, key):
        require(key is not None, "unbiased needs a key", key)
        coin_key, exact_key, cheap_key = jax.random.split(key, 3)
        y, exact_pullback = exact.respond(x, y0, batch, exact_key)
        _, cheap_pullback = cheap.respond(x, y0, batch, cheap_key)
        # The coin must not depend on the value of e: that would bias the mean.
        coin = jax.random.bernoulli(coin_key, probability)

        def pullback(w, v):
            first, correction, v, residual = correct(coin, cheap_pullback, exact_pullback, w, v)
            return Pulled(tree.add_scale(first, 1 / probability, correction), v, residual)

        return y, pullback

    # A cheap pullback without products or further paths does not read its y, and XLA drops its solve.
    pulls = cheap.cost.total > cheap.cost.gradients or cheap.cost.gradients > exact.cost.gradients
    own = cheap.cost if pulls else Cost()
    return Response(
        respond=following(respond, exact.adjoint),
        adjoint=exact.adjoint,
        draws=max(cheap.draws, exact.draws),
        cost=exact.cost.plus(own),
        residual=exact.residual,
        watched=partial(following, respond, exact.adjoint),
    )


def correct(
    coin: Any, cheap_pullback: Pullback, exact_pullback: Pullback, w: PyTree, v: PyTree
) -> tuple[PyTree, PyTree, PyTree, Any]:
    """Return `(o, e - o, v, residual)` on heads, `(o, 0, v, 0)` on tails.

    On tails e is not computed.

    Args:
      coin: a boolean scalar, true on heads.
      cheap_pullback, exact_pullback: they compute o and e.
      w: cotangent on y.
      v: adjoint of the previous step.
    """
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
    """Return the probability of an exact pullback that minimises the total cost.

        q minimises (second_moment + (1 / q - 1) bias)^exponent (cheap_cost + q exact_cost)

    The objective is the number of draws times the cost of one draw. The number of draws grows like a
    power of the second moment of the debiased gradient: power 1 for a constant error, power 2 for steps
    k^(-1/2).

    Args:
      second_moment: mean of |e|^2, where e is the exact gradient.
      bias: mean of |e - o|^2, where o is the cheap gradient.
      cheap_cost: cost of a draw without the exact pullback.
      exact_cost: additional cost of the exact pullback.
      exponent: power of the second moment, positive.

    Returns:
      q in [0, 1]: 0 if there is no bias, 1 if debiasing does not pay. All arguments may be traced.

    >>> optimal_probability(10.0, 1.0, cheap_cost=11, exact_cost=10)
    Array(0.34960294, dtype=float32, weak_type=True)

    Reference: Likhosherstov et al., ICML 2021, arXiv:2106.02487. The formula follows the authors' code,
    which uses the exponents 1/2 and 2.
    """
    a = (second_moment - bias) * exact_cost
    b = (1 - exponent) * bias * exact_cost
    c = -exponent * bias * cheap_cost
    square = b * b - 4 * a * c
    bottom = b + jnp.sqrt(jnp.maximum(square, 0))
    # This form of the root does not divide by a, which may be zero. Of two roots it is the minimum.
    root = jnp.where(bottom > 0, -2 * c / jnp.where(bottom > 0, bottom, 1), 1)
    root = jnp.where(square >= 0, jnp.minimum(root, 1), 1)

    def objective(q):
        return (second_moment + (1 / q - 1) * bias) ** exponent * (cheap_cost + q * exact_cost)

    # If bias > second_moment, the root may be a local minimum that is worse than q = 1.
    inside = (root > 0) & (objective(jnp.where(root > 0, root, 1)) < objective(1.0))
    return jnp.where(bias <= 0, 0.0, jnp.where(inside, root, 1.0))
