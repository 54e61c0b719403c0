"""Diagnosis of a run whose numbers are no longer finite: step, loss, leaf, cause and remedy."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from bilevel.sampling import Host, unclean_row
from bilevel.types import Algorithm, Batch, DivergedError, require

# A linear residual above this means that the adjoint system is not solved.
UNSOLVED = 0.5
LOSSES = {"outer_loss": "the outer loss f", "inner_loss": "the inner loss g"}
METRICS = {
    "inner_residual": "the gradient of the inner loss g",
    "linear_residual": "the residual of the adjoint system",
    "gradient_norm": "the hypergradient",
}
# Fields of a state in the order in which one step computes them.
MOVERS = {
    "y": "the gradient of the inner loss g",
    "z": "the gradient of the inner loss g",
    "v": "the adjoint system",
    "x": "the hypergradient",
}


# Steps with x held fixed, at least, and growth of the inner residual in them by which y diverges.
HELD, GROWTH = 50, 1e3
LOWER = "lower the step sizes"
LOWER_INNER, LOWER_OUTER = "lower the inner step size", "lower the outer step size"

ON_DIVERGENCE = ("raise", "restore", "halve", "continue")
# Name in the history of the factor of the step sizes, and its least value: a run that still diverges with a
# millionth of its step sizes has another fault.
FACTOR, LEAST_FACTOR = "step_size_factor", 0.5**20


class Steps(NamedTuple):
    """The steps of a run, to be made again.

    Attributes:
      go: `(state, step, count) -> state`, the state `count` steps after step number `step`.
      measure: `(state, step) -> metrics`, the metrics at the state after `step` steps.
      fixed: as `go`, with x held fixed.
      read: `(step, seed) -> Batch`, the minibatches of the step after `step` steps; `seed` is the position
        of a key, or None for a run of one key.
    """

    go: Callable[[Any, int, int], Any]
    measure: Callable[[Any, int], dict[str, Any]]
    fixed: Callable[[Any, int, int], Any]
    read: Callable[[int, int | None], Batch]


def first_broken(metrics: dict[str, Any], state: Any) -> str | None:
    """Return the name of the first metric or leaf that is not finite, or None; losses come first."""
    if broken := _broken(metrics):
        return broken[0]
    if _finite(state):
        return None
    return next("state" + keystr(path) for path, leaf in _causal(state) if not _finite(leaf))


def diagnose(
    algorithm: Algorithm,
    data: Batch,
    steps: Steps,
    state: Any,
    window: tuple[int, int],
    start: int,
    history: dict[str, Any],
) -> DivergedError:
    """Return the error of a run that is finite at the first step of a window, and not at its last.

    The first step after which a number is not finite is found by bisection. This makes the steps of the
    window again, each about once, on the same minibatches. If the window is empty, the start is at fault.
    The steps up to there are made once more with x held fixed, to tell which step size is too large.

    Args:
      algorithm: algorithm that ran.
      data: data of the run.
      steps: steps of the run.
      state: state at the first step of the window.
      window: first and last step.
      start: first step of the run.
      history: log points before, as in `Result`.
    """
    before, step = _bisect(steps, state, *window)
    at_start = window[0] == window[1]
    after = state if at_start else steps.go(before, step - 1, 1)
    metrics = steps.measure(after, step)
    broken = first_broken(metrics, after)
    assert broken is not None
    several = np.ndim(next(iter(metrics.values()))) > 0
    seed = _first_seed(metrics, after) if several else None
    # A state that is not finite was made by the step before, a loss is measured on the step that follows.
    read = step if _finite(after) else step - 1
    cause = _blame_data(algorithm, data, steps, read, read > start, seed)
    place = f"{algorithm.name} diverged at step {step}" + (f" with key {seed}" if several else "")
    fault = f"{place}: {_name(metrics, after)}"
    if at_start and (spoilt := _blame_start(after, seed)):
        fault, remedy = f"{place}: {spoilt}", "start with finite numbers"
    elif cause:
        remedy = f"{cause}; clean the data"
    elif at_start:
        remedy = "check the loss at the start, or lower the step sizes"
    else:
        # Repeated, so that no data are read but those of the window.
        count, held = step - window[0], state
        for _ in range(-(-HELD // count)):
            held = steps.fixed(held, window[0], count)
        first, last, fixed = (
            steps.measure(*place) for place in ((state, window[0]), (before, step - 1), (held, step))
        )
        remedy = _remedy(first, last, fixed, held, history, seed)
    last = "" if at_start else f"; the last finite state came after step {step - 1} (`error.before`)"
    restart = (
        ", or restart from the last log point (`error.state`)"
        if remedy in (LOWER, LOWER_INNER, LOWER_OUTER)
        else ""
    )
    return DivergedError(
        f"{fault}{last}; {remedy}{restart}",
        fault=fault,
        remedy=remedy,
        algorithm=algorithm.name,
        steps=window,
        step=step,
        metric=broken,
        state=state,
        before=before,
        history=history,
    )


def builder(algorithm: Any, on_divergence: str) -> Callable[[float], Algorithm]:
    """Return the function from a factor of the step sizes to the algorithm.

    Raises:
      ValueError: if `on_divergence` has no such value, or the algorithm does not suit it.
    """
    rule = f"on_divergence must be one of {', '.join(ON_DIVERGENCE)}"
    require(on_divergence in ON_DIVERGENCE, rule, repr(on_divergence))
    if on_divergence != "halve":
        require(isinstance(algorithm, Algorithm), "algorithm must be an Algorithm", type(algorithm).__name__)
        return lambda factor: algorithm
    rule = (
        "on_divergence='halve' needs a function of a factor of the step sizes, such as "
        "`lambda factor: soba(problem, inner_optimizer=0.1 * factor, outer_optimizer=0.01 * factor)`"
    )
    require(callable(algorithm), rule, type(algorithm).__name__)
    return algorithm


def reaction(error: DivergedError, on_divergence: str, factor: float) -> str:
    """Return the warning of a run that reacts to an error, with the new factor of its step sizes."""
    found = f"{error.fault}; {error.remedy}"
    if on_divergence == "restore":
        return f"{found}; the run ends with the state of step {error.steps[0]}"
    return f"{found}; the run goes on from step {error.steps[0]} with step sizes times {factor:g}"


def _bisect(steps, state, first, last):
    """Return a finite state, and the number of the step after which the run is no longer finite."""
    while last - first > 1:
        middle = (first + last) // 2
        new = steps.go(state, first, middle - first)
        if first_broken(steps.measure(new, middle), new) is None:
            state, first = new, middle
        else:
            last = middle
    return state, last


def _broken(metrics):
    """Return the names of the metrics that are not finite, losses first."""
    names = sorted(metrics, key=lambda name: name not in LOSSES)
    return [name for name in names if not np.all(np.isfinite(metrics[name]))]


def _name(metrics, state):
    """Return the words for the losses, the metric or the leaf that are not finite."""
    if not _finite(state):
        path, _ = next((path, leaf) for path, leaf in _causal(state) if not _finite(leaf))
        mover = MOVERS.get(keystr(path[:1], simple=True))
        return f"state{keystr(path)}" + (f", moved by {mover}," if mover else "") + " is not finite"
    broken = _broken(metrics)
    losses = [LOSSES[name] for name in broken if name in LOSSES]
    if losses:
        return " and ".join(losses) + (" is" if len(losses) == 1 else " are") + " not finite"
    return f"{METRICS.get(broken[0], broken[0])} is not finite"


def _remedy(first, before, held, state, history, seed):
    """Return what to do.

    A y that also diverges at a fixed x has too large a step size. Where y and v settle at a fixed x, the
    moves of x are too large.

    Args:
      first, before: metrics at the first step of the window, and at the last finite state.
      held, state: metrics and state after the steps of the window with x held fixed.
      history: log points before.
      seed: position of the key, or None.
    """

    def at(values):
        return np.asarray(values if seed is None else np.asarray(values)[..., seed])

    first, before, held, state = jax.tree.map(at, (first, before, held, state))
    unknown = np.asarray(np.nan)
    start = at(history.get("inner_residual", [unknown]))[0]
    residual = held.get("inner_residual", unknown)
    largest = np.maximum(first.get("inner_residual", unknown), start)
    y = [leaf for path, leaf in _causal(state) if keystr(path[:1], simple=True) == "y"]
    # Where y only just settles at a large x, the value of g may overflow, its gradient does not.
    inner = held.get("inner_residual", held.get("inner_loss", 0.0))
    if not (_finite(y) and np.isfinite(inner)) or 0 < GROWTH * largest < residual:
        return LOWER_INNER
    linear = before.get("linear_residual", 0.0)
    # Where y diverges too, no adjoint can follow.
    if linear > UNSOLVED and not before.get("inner_residual", unknown) > 10 * start:
        return (
            f"the adjoint system is not solved (its linear residual is {linear:.2g}), as where the Hessian "
            "of g is singular or indefinite; add damping or an L2 term to g, or lower the step sizes"
        )
    # A residual of a minibatch varies; an adjoint of zero has the linear residual 1.
    settled = residual <= 2 * np.maximum(largest, 10 * start) and held.get("linear_residual", 0.0) <= 2
    return LOWER_OUTER if settled and _finite(state) and not _broken(held) else LOWER


def _blame_data(algorithm, data, steps, step, has_previous, seed):
    """Return the sentence that names data that are not finite, or "" if they are not the cause."""
    now = steps.read(step, seed)
    earlier = steps.read(step - 1, seed) if has_previous else None
    for level, loss in (("inner", "g"), ("outer", "f")):
        count = getattr(algorithm.draws, level)
        found = _unclean(getattr(now, level), count)
        # The step before read such values too and was finite: the loss masks them.
        if found is None or (earlier and _unclean(getattr(earlier, level), count) is not None):
            continue
        path, kind, number = found
        source = getattr(data, level)
        if isinstance(source, Host):
            place = f"minibatch {step * count + number}"
        else:
            row = unclean_row(source, path)
            place = None if row is None else f"row {row}"
        where = " in ".join(part for part in (keystr(path), place) if part)
        return f"the data of {loss} contain {kind}" + (f" in {where}" if where else "")
    return ""


def _blame_start(state, seed):
    """Return the sentence that names a start that is not finite, or "" if it is finite."""
    for name in ("x", "y"):
        for path, leaf in tree_leaves_with_path(getattr(state, name)):
            leaf = leaf if seed is None else leaf[seed]
            if kind := _kind(leaf):
                return f"the start {name} contains {kind}" + (f" in {keystr(path)}" if path else "")
    return ""


def _kind(leaf):
    """Return the words for values that are not finite, or "" if there are none."""
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) or jnp.all(jnp.isfinite(leaf)):
        return ""
    return "NaN" if jnp.any(jnp.isnan(leaf)) else "infinite values"


def _unclean(view, count):
    """Return path, kind and number of the first value of `count` minibatches that is not finite, or None."""
    for number in range(min(count, 1) if view.is_full else count):
        for path, leaf in tree_leaves_with_path(view[number]):
            if kind := _kind(leaf):
                return path, kind, number
    return None


def _first_seed(metrics, state):
    """Return the position of the first key with a number that is not finite."""
    leaves = [*metrics.values(), *(leaf for _, leaf in _causal(state))]
    finite = [np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in leaves]
    return int(np.argmin(np.all(finite, axis=0)))


def _causal(state):
    """Return the floating-point leaves of a state with their paths, in the order of `MOVERS`."""
    leaves = [
        (path, leaf)
        for path, leaf in tree_leaves_with_path(_without_infinities(state))
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    places = {name: place for place, name in enumerate(MOVERS)}
    return sorted(leaves, key=lambda pair: places.get(keystr(pair[0][:1], simple=True), len(places)))


def _without_infinities(state):
    """Return the state with zeros in place of infinite numbers of its optimisers.

    An optimiser may start with an infinite best value, so only NaN is a fault there.
    """
    if not hasattr(state, "optimizer"):
        return state

    def leaf(value):
        inexact = jnp.issubdtype(value.dtype, jnp.inexact)
        return jnp.where(jnp.isinf(value), jnp.zeros_like(value), value) if inexact else value

    return state._replace(optimizer=jax.tree.map(leaf, state.optimizer))


@jax.jit
def _finite(tree):
    leaves = [
        leaf for leaf in jax.tree.leaves(_without_infinities(tree)) if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
