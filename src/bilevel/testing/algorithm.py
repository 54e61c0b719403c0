"""The check of an algorithm."""

from typing import Any

import jax
import jax.numpy as jnp

from bilevel.driver import initial_state, make_plan, run
from bilevel.testing.asserting import assert_identical, assert_same_shape, assert_true
from bilevel.types import Algorithm, Batch, PyTree

METRICS = ("outer_loss", "inner_loss", "inner_residual", "linear_residual", "gradient_norm")


def check_algorithm(algorithm: Algorithm, x: PyTree, y: PyTree, data: Batch, key: Any) -> None:
    """Check that an algorithm obeys the protocol `Algorithm`.

    Use data whose minibatches differ, for example from `minibatches`: with `full` data the check cannot see
    that a step reads more minibatches than it declares. The losses must keep the precision of their
    arguments.

    Args:
      algorithm: the algorithm to check, with settings under which it does not diverge.
      x, y: start of the outer and of the inner variable.
      data: from `minibatches`, or a `Batch` of two sources.
      key: random key.

    Raises:
      AssertionError: when a rule does not hold; the message states it.

    >>> import bilevel
    >>> from bilevel import tasks
    >>> task = tasks.quadratic(rows=20, outer_dim=2, inner_dim=3)
    >>> x, y = task.start(jax.random.key(0))
    >>> check_algorithm(bilevel.soba(task.problem), x, y, task.minibatches(4), jax.random.key(1))
    """
    state = initial_state(algorithm, x, y, data)
    assert_true(hasattr(state, "x") and hasattr(state, "y"), "the state must have the fields x and y")
    _check_forms(algorithm, state, data, key)
    _check_precision(algorithm, x, y, data, key)
    _check_step(algorithm, state, data, key)
    _check_resuming(algorithm, x, y, data, key)


def _first_step(algorithm, data, key, more=0):
    """Return the key and minibatches of the first step, with `more` undeclared ones."""
    draws = algorithm.draws
    wide = draws._replace(outer=draws.outer + more, inner=draws.inner + more)
    plan = make_plan(wide, data, key, 0, 1)
    return plan.read(data, 0)


def _check_forms(algorithm, state, data, key):
    batch, step_key = _first_step(algorithm, data, key)
    new, metrics = jax.eval_shape(algorithm.step, state, batch, step_key)
    rule = "a step must keep structure, shapes and dtypes of the state"
    assert_same_shape(jax.tree.map(jnp.asarray, state), new, rule)
    for name, value in metrics.items():
        assert_true(value.shape == (), f"metrics must be scalars, got shape {value.shape} for {name}")
    lacking = [name for name in METRICS if name not in metrics]
    assert_true(not lacking, f"metrics must contain {', '.join(METRICS)}; {', '.join(lacking)} are missing")


def _check_precision(algorithm, x, y, data, key):
    def single(value):
        def convert(leaf):
            floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            return jnp.asarray(leaf, jnp.float32) if floating else leaf

        return jax.tree.map(convert, value)

    def first_step(x, y, data):
        state = initial_state(algorithm, x, y, data)
        batch, step_key = _first_step(algorithm, data, key)
        return algorithm.step(state, batch, step_key)

    found = jax.eval_shape(first_step, single(x), single(y), single(data))
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        wide = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != jnp.float32
        place = ("state", "metrics")[path[0].idx] + jax.tree_util.keystr(path[1:])
        assert_true(not wide, f"float32 variables must stay float32, got {leaf.dtype} for {place}")


def _check_step(algorithm, state, data, key):
    batch, step_key = _first_step(algorithm, data, key)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves((state.x, state.y))]
    # Fused arithmetic rounds differently.
    tolerance = float(max(jnp.finfo(dtype).eps for dtype in dtypes)) ** 0.5
    step = jax.jit(algorithm.step)
    compiled = step(state, batch, step_key)
    eager = algorithm.step(state, batch, step_key)
    assert_identical(eager, compiled, "a step must give the same result under jit", tolerance=tolerance)
    # An index beyond the declared minibatches is clamped to the last one, which differs here.
    wide, _ = _first_step(algorithm, data, key, more=1)
    rule = f"a step must not read more minibatches than it declares, {algorithm.draws}"
    assert_identical(compiled, step(state, wide, step_key), rule, tolerance=tolerance)


def _check_resuming(algorithm, x, y, data, key):
    def until(steps, **arguments):
        return run(algorithm, x, y, data, steps=steps, key=key, progress=False, **arguments).state

    whole = until(5, log_every=5)
    half = until(2, log_every=1)
    rest = until(5, log_every=2, state=half, start=2)
    assert_identical(whole, rest, "a resumed run must equal the uninterrupted one bit for bit")
