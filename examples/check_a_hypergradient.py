"""Check the hypergradient of a problem of your own.

The file defines a task, so `bilevel check examples/check_a_hypergradient.py:task` checks it too.
"""

import jax.numpy as jnp
from sklearn.datasets import load_diabetes

import bilevel

features, targets = load_diabetes(return_X_y=True)
features, targets = features / features.std(0), (targets - targets.mean()) / targets.std()
train, valid = (features[::2], targets[::2]), (features[1::2], targets[1::2])


def error(y, batch):
    return jnp.mean((batch[0] @ y - batch[1]) ** 2)


def outer(x, y, batch):
    """The validation error of the model y."""
    return error(y, batch)


def inner(x, y, batch):
    """Its training error, with one L2 strength per feature."""
    return error(y, batch) + jnp.sum(jnp.exp(x) * y**2)


task = bilevel.Task(
    problem=bilevel.Problem(outer, inner),
    data=bilevel.full(valid, train),
    x=jnp.full(10, -3.0),
    y=jnp.zeros(10),
)

if __name__ == "__main__":
    # Ten inner steps are too few: the check says so, and how many are enough.
    for steps in (10, None):
        report = bilevel.check(task.problem, task.x, task.y, task.data, inner_steps=steps, curves=False)
        print(report, end="\n\n")
