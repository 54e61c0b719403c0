"""Cases for tests of the claims: a problem in closed form, and random episodes."""

import jax.numpy as jnp
import numpy as np

from bilevel import Problem, full, itd_bio
from bilevel.fewshot import Shape, fixed_episodes
from bilevel_claims.experiment import Experiment
from cases.fewshot import noisy_prototypes

# The inner step is exact and the hypergradient is x: x_k = (1 - outer step)^k.
FOLLOW = Problem(lambda x, y, batch: 0.5 * y**2, lambda x, y, batch: 0.5 * (y - x) ** 2)
EXPERIMENT = Experiment(
    data=full(None, None),
    start=lambda key: (jnp.ones(()), jnp.zeros(())),
    measure=lambda state, held: {"size": jnp.abs(state.x)},
)


def follow(**rates):
    """Return ITD-BiO on `FOLLOW`, by default with one exact inner step."""
    return itd_bio(FOLLOW, **({"inner_optimizer": 1.0, "inner_steps": 1} | rates))


def prototype_episodes(ways, count, shots=1, queries=1):
    """Return `count` fixed episodes of small noisy prototypes."""
    data = noisy_prototypes(side=8, sizes=(20, 12, 12))
    scale = np.asarray(data.mean, np.float32), np.asarray(data.std, np.float32)
    return fixed_episodes(data.train, *scale, Shape(ways, shots, queries), count)
