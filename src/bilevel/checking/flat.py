"""A problem on flat float64 vectors, so that a reference shares no code with what it checks."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel.types import Problem, PyTree


class Flat(NamedTuple):
    """Losses and derivatives of a problem, compiled, on flat vectors `x` and `y`.

    Attributes:
      x, y: start of the two variables.
      outer, inner: `(x, y) -> loss`.
      outer_slopes: `(x, y) -> (f_x, f_y)`.
      inner_slope: `(x, y) -> g_y`.
      hessian: `(x, y, w) -> H w`.
      matrix: `(x, y) -> H`, dense.
      cross: `(x, y, w) -> J w`, like x.
      moved: `(x, y, d) -> J' d`, the derivative of g_y along a direction d of x.
      linear: `(solver, x, y, b) -> v`, a `LinearSolver` run on H v = b.
      rounding: relative rounding error of the losses: float64's, or larger in lower precision.
      project: `y -> y`, the projection onto the inner set, or None.
      project_along: `(y, w) -> P w`, with the derivative P of the projection at y, or None.
    """

    x: np.ndarray
    y: np.ndarray
    outer: Callable[..., Any]
    inner: Callable[..., Any]
    outer_slopes: Callable[..., Any]
    inner_slope: Callable[..., Any]
    hessian: Callable[..., Any]
    matrix: Callable[..., Any]
    cross: Callable[..., Any]
    moved: Callable[..., Any]
    linear: Callable[..., Any]
    rounding: float
    project: Callable[..., Any] | None
    project_along: Callable[..., Any] | None


def flatten(problem: Problem, x: PyTree, y: PyTree, outer_data: Any, inner_data: Any) -> Flat:
    """Return a problem on flat float64 vectors, whatever the precision of the caller.

    Args:
      problem: the two losses.
      x, y: outer and inner variable.
      outer_data, inner_data: a minibatch of each level.
    """
    with jax.enable_x64(True):
        x, y, outer_data, inner_data = as_float64((x, y, outer_data, inner_data))
        flat_x, shaped_x = ravel_pytree(x)
        flat_y, shaped_y = ravel_pytree(y)
        rounding = _rounding(problem, x, y, outer_data, inner_data)

    def compiled(function, data):
        # The data are an argument: a compiled program would keep a closure for ever.
        program = jax.jit(function)

        def call(*arguments):
            with jax.enable_x64(True):
                return jax.tree.map(np.asarray, program(data, *arguments))

        return call

    def outer(data, x, y):
        return problem.outer(shaped_x(x), shaped_y(y), data)

    def inner(data, x, y):
        return problem.inner(shaped_x(x), shaped_y(y), data)

    def inner_slope(data, x, y):
        return jax.grad(inner, argnums=2)(data, x, y)

    def hessian(data, x, y, w):
        return jax.jvp(lambda y: inner_slope(data, x, y), (y,), (w,))[1]

    def matrix(data, x, y):
        return jax.vmap(lambda w: hessian(data, x, y, w))(jnp.eye(y.size))

    def cross(data, x, y, w):
        return jax.jvp(lambda y: jax.grad(inner, argnums=1)(data, x, y), (y,), (w,))[1]

    def moved(data, x, y, d):
        return jax.jvp(lambda x: inner_slope(data, x, y), (x,), (d,))[1]

    def linear(solver, x, y, b):
        def solve(data, x, y, b):
            return solver.solve(lambda i: lambda w: hessian(data, x, y, w), b, None)[0]

        return compiled(solve, inner_data)(x, y, b)

    project = project_along = None
    if (projection := problem.inner_projection) is not None:

        def projected(data, y):
            return ravel_pytree(projection(shaped_y(y)))[0]

        project = compiled(projected, None)
        project_along = compiled(
            lambda data, y, w: jax.jvp(lambda y: projected(data, y), (y,), (w,))[1], None
        )
    return Flat(
        x=np.asarray(flat_x),
        y=np.asarray(flat_y),
        outer=compiled(outer, outer_data),
        inner=compiled(inner, inner_data),
        outer_slopes=compiled(jax.grad(outer, argnums=(1, 2)), outer_data),
        inner_slope=compiled(inner_slope, inner_data),
        hessian=compiled(hessian, inner_data),
        matrix=compiled(matrix, inner_data),
        cross=compiled(cross, inner_data),
        moved=compiled(moved, inner_data),
        linear=linear,
        rounding=rounding,
        project=project,
        project_along=project_along,
    )


def _rounding(problem, x, y, outer_data, inner_data) -> float:
    """Return the largest rounding error of any floating-point number inside the losses."""
    programs = [
        jax.make_jaxpr(loss)(x, y, data)
        for loss, data in ((problem.outer, outer_data), (problem.inner, inner_data))
    ]
    dtypes = {
        variable.aval.dtype
        for program in programs
        for equation in equations(program)
        for variable in equation.outvars
        if jnp.issubdtype(getattr(variable.aval, "dtype", int), jnp.floating)
    }
    return max(float(jnp.finfo(dtype).eps) for dtype in dtypes | {jnp.dtype("float64")})


def equations(program: Any) -> Iterator[Any]:
    """Return the equations of a traced function, those of its inner functions included."""
    for equation in program.jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "consts") and hasattr(inner, "jaxpr"):
                    yield from equations(inner)


def as_float64(pytree: PyTree) -> PyTree:
    """Return a pytree whose floating-point leaves are float64 arrays."""

    def convert(leaf):
        return jnp.asarray(leaf, jnp.float64) if is_floating(leaf) else leaf

    return jax.tree.map(convert, pytree)


def vector(pytree: PyTree) -> np.ndarray:
    """Return the entries of a pytree as one float64 vector."""
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(pytree)]
    return np.concatenate([np.empty(0), *leaves])


def is_floating(leaf: Any) -> bool:
    """Return whether a leaf holds floating-point numbers."""
    try:
        return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))
    except TypeError:  # a typed random key, or text
        return False
