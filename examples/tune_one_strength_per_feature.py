"""Tune ten L2 strengths at once, by the gradient of the validation error."""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_diabetes

import bilevel

features, targets = load_diabetes(return_X_y=True)
features, targets = features / features.std(0), (targets - targets.mean()) / targets.std()
train, valid, test = ((features[i::3], targets[i::3]) for i in range(3))


def error(y, batch):
    return jnp.mean((batch[0] @ y - batch[1]) ** 2)


problem = bilevel.Problem(
    outer=lambda x, y, batch: error(y, batch),
    inner=lambda x, y, batch: error(y, batch) + jnp.sum(jnp.exp(x) * y**2),
)
algorithm = bilevel.aid_bio(problem, inner_optimizer=0.05, outer_optimizer=0.5)
start = jnp.zeros(10), jnp.zeros(10)
result = bilevel.run(algorithm, *start, bilevel.full(valid, train), steps=500, key=jax.random.key(0))

print("validation error", result.history["outer_loss"][[0, -1]])
print("test error", error(result.state.y, test))
assert result.history["outer_loss"][-1] < result.history["outer_loss"][0]
