"""Use your own model and optimisers: learn the weights of the rows of a Flax network with Adam."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import bilevel

images, labels = load_digits(return_X_y=True)
images, labels = jnp.asarray(images / 16), jnp.asarray(labels)
key = jax.random.key(0)
noisy = jnp.where(jax.random.uniform(key, (1000,)) < 0.4, (labels[:1000] + 1) % 10, labels[:1000])
inner_rows = {"images": images[:1000], "labels": noisy, "row": jnp.arange(1000)}
outer_rows = {"images": images[1000:1200], "labels": labels[1000:1200]}


class Net(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(nn.relu(nn.Dense(64)(images)))


def losses(y, batch):
    return optax.softmax_cross_entropy_with_integer_labels(Net().apply(y, batch["images"]), batch["labels"])


problem = bilevel.Problem(
    outer=lambda x, y, batch: losses(y, batch).mean(),
    inner=lambda x, y, batch: jnp.mean(jax.nn.sigmoid(x[batch["row"]]) * losses(y, batch)),
)
algorithm = bilevel.soba(
    problem,
    inner_optimizer=optax.adam(3e-3),
    adjoint_optimizer=optax.adam(3e-3),
    outer_optimizer=optax.adam(3e-2),
)
data = bilevel.minibatches(outer_rows, inner_rows, batch_size=100)
y = Net().init(key, images[:1])
result = bilevel.run(algorithm, jnp.zeros(1000), y, data, steps=1500, key=key)
weights = jax.nn.sigmoid(result.state.x)
wrong = noisy != labels[:1000]
print(f"mean weight of wrong rows {weights[wrong].mean():.2f}, of right rows {weights[~wrong].mean():.2f}")
assert weights[wrong].mean() < weights[~wrong].mean() - 0.1
