"""Tasks spread over four devices: the same step as on one device, with one sum across devices."""

import json
import os
import subprocess
import sys

import pytest

SPREAD = """
import contextlib, json, re, sys
sys.path.insert(0, sys.argv[1])
import jax, jax.numpy as jnp, numpy as np, optax
import bilevel as b
from bilevel.fewshot import METHODS, Episodes, Shape
from bilevel.fewshot.learning import tasks_mesh
from cases.fewshot import noisy_prototypes, small_network

data, found = noisy_prototypes(side=8), {"devices": len(jax.devices())}
key = jax.random.key(0)
for name, ways in (("maml", (True, False)), ("itd_bio", (True,))):
    for vectorize in ways:
        learner = METHODS[name](
            small_network(8), 3, optax.sgd(1.0), inner_step=0.3, inner_steps=3, vectorize=vectorize
        )
        state = learner.algorithm.init(*learner.start(key))
        xs, here = [], found.setdefault(f"{name} {vectorize}", {})
        scale = np.float32(data.mean), np.float32(data.std)
        source = Episodes(jnp.asarray(data.train), *scale, None, Shape(3, 1, 2), 8)
        source = source.view(source.plan(key, 0, 1))

        def step(state, source):
            return learner.algorithm.step(state, b.Batch(source, b.sampling.Full(None)), key)[0].x

        for place in ("alone", "spread"):
            with jax.set_mesh(tasks_mesh()) if place == "spread" else contextlib.nullcontext():
                compiled = jax.jit(lambda *arguments: step(*arguments)).lower(state, source).compile()
                xs.append(compiled(state, source))
            text = compiled.as_text()
            here[place] = text.count("all-reduce(")
            # The convolutions of one device loop over its tasks (in itd_bio, their kernel derivatives).
            here[place + " trips"] = sorted(set(re.findall(r'known_trip_count":{"n":"(\\d+)"', text)))
        leaves = [[np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(x)] for x in (*xs, state.x)]
        here["difference"] = max(np.max(abs(one - other)) for one, other in zip(*leaves[:2]))
        here["moved"] = max(np.max(abs(one - start)) for one, start in zip(leaves[0], leaves[2]))
print(json.dumps(found, default=float))
"""


STEPS = ["maml True", "maml False", "itd_bio True"]


@pytest.fixture(scope="module")
def found():
    """Return measurements of a process with four devices."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", SPREAD, os.path.dirname(__file__)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_there_are_four_devices(found):
    assert found["devices"] == 4


@pytest.mark.parametrize("step", STEPS)
def test_a_spread_step_is_the_step_on_one_device(found, step):
    # Float32 sums in another order.
    assert found[step]["moved"] > 0.01 and found[step]["difference"] < 1e-5 * max(1, found[step]["moved"])


@pytest.mark.parametrize("step", STEPS)
def test_every_device_takes_its_share_of_the_tasks_and_one_sum_joins_them(found, step):
    here = found[step]
    assert here["alone"] == 0 and here["spread"] > 0
    # Eight tasks on four devices; the other loops are five images and three inner steps.
    assert "8" in here["alone trips"] and "8" not in here["spread trips"] and "2" in here["spread trips"]
