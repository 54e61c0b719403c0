"""Random keys: no two uses of a key share one."""

import ast
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel import many_tasks
from bilevel.directions.types import Terms
from bilevel.keys import key_for
from cases.problems import few_tasks_case


def data_of(keys):
    return {tuple(row) for row in np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()}


def test_named_keys_differ_from_each_other_and_from_every_split(key):
    named = data_of(jnp.stack([key_for(use, key) for use in ("rate", "refresh", "coin", "run")]))
    # The keys of a split are those of `fold_in` with small numbers.
    assert data_of(jax.random.split(key, 5)) == data_of(
        jnp.stack([jax.random.fold_in(key, i) for i in range(5)])
    )
    assert len(named) == 4 and not named & (data_of(jax.random.split(key, 1000)) | data_of(key))
    assert key_for("rate", None) is None


def test_no_constant_number_is_folded_into_a_key():
    """`fold_in(key, 1)` is the second key of every split of this key; `key_for` gives one of its own."""
    found = []
    for path in sorted(Path(b.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("fold_in"):
                if isinstance(node.args[1], ast.Constant):
                    found.append(f"{path.name}, line {node.lineno}")
    assert not found


@pytest.mark.parametrize("data", ["tasks", "no tasks"])
def test_the_step_size_of_tasks_and_every_task_have_their_own_keys(data, key):
    case, seen = few_tasks_case(), {}

    def note(name, key):
        jax.debug.callback(
            lambda key: seen.setdefault(name, set()).add(tuple(key.tolist())), jax.random.key_data(key)
        )

    def source(task, key):
        note("source", key)
        return many_tasks.whole_task(task, key)

    def rate(x, tasks, key):
        note("rate", key)
        return 1.0

    def respond(x, y0, batch, key):
        note("response", key)
        return plain.respond(x, y0, batch, key)

    plain = b.unrolled(b.descend(case.problem, 0.1, 1), start=lambda x: x)
    problem, tasks = case.problem, case.data.outer.arrays
    if data == "no tasks":
        one, tasks = jax.tree.map(lambda a: a[0], tasks), None
        problem = b.Problem(
            lambda x, y, _: case.problem.outer(x, y, one), lambda x, y, _: case.problem.inner(x, y, one)
        )
        plain = b.unrolled(b.descend(problem, 0.1, 1), start=lambda x: x)
    algorithm = many_tasks.nested_over_tasks(
        problem, plain._replace(respond=respond), 0.1, vectorize=False, source=source, rate=rate
    )
    algorithm.step(algorithm.init(case.x, case.y), b.full(tasks, None), key)
    jax.effects_barrier()
    count = 4 if data == "tasks" else 1
    # A task splits its key into the keys of its source and of its response.
    seen["task"] = data_of(jax.random.split(key, 4)) if data == "tasks" else data_of(key)
    assert {name: len(keys) for name, keys in seen.items()} == dict(
        source=count, rate=1, response=count, task=count
    )
    assert len(set().union(*seen.values())) == 3 * count + 1


def test_a_refresh_of_page_has_its_own_key():
    """Its coin must not be the coin of any key that an oracle gets by splitting the key of the step."""
    estimator = b.page(0.5)
    point = b.Point(jnp.zeros(()), (), ())

    def oracle(point, batch):
        zero = b.Point(jnp.zeros(()), (), ())
        return Terms(zero._replace(x=jnp.asarray(float(batch == "whole"))), zero, 0.0)

    class Source:
        def whole(self):
            return "whole"

    def refreshes(key):
        state = estimator.init(point, (1, 1))._replace(count=jnp.ones((), jnp.int32))
        source: Any = Source()
        return bool(estimator.update(oracle, state, point, source, key)[0].x)

    keys = jax.random.split(jax.random.key(0), 64)
    coins = np.array([refreshes(key) for key in keys])
    for i in range(4):
        others = [bool(jax.random.bernoulli(jax.random.split(key, 4)[i], 0.5)) for key in keys]
        # Sixty-four independent coins agree about half of the time.
        assert 0.25 < np.mean(coins == np.array(others)) < 0.75
