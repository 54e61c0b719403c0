"""Bilevel optimisation in JAX: learn one thing so that another, trained on it, does well."""

import importlib
from typing import Any

from bilevel import algorithms
from bilevel.algorithms import *
from bilevel.algorithms.sama import adam_derivative
from bilevel.calculus import hessian_product, inner_gradient, products
from bilevel.certificates import Certificate, Certify, certificate
from bilevel.checking import Advice, Report, advise, check
from bilevel.checkpoint import Checkpoint
from bilevel.combinators import nested, single_loop
from bilevel.directions import Oracle, Terms, implicit_direction, neumann_direction, penalty_direction
from bilevel.driver import advance, initial_state, run
from bilevel.environment import VERSION
from bilevel.estimators import Estimator, count_blocks, momentum, page, plain, saga, spider, storm
from bilevel.hypergradient import Info, as_variables, hypergradient, measures
from bilevel.inner import InnerSolver, accelerate, descend, embedded
from bilevel.linear import (
    LinearSolver,
    cg,
    decreasing_batches,
    heavy_ball,
    lineax_solver,
    nesterov,
    neumann,
    random_product,
    richardson,
)
from bilevel.optimizers import move
from bilevel.response import (
    Pulled,
    Response,
    SolutionInfo,
    first_order,
    implicit,
    optimal_probability,
    solution,
    unbiased,
    unified_hypergradient,
    unrolled,
    zeroth_order,
)
from bilevel.sampling import BlockSource, Host, Source, full, minibatches
from bilevel.types import (
    Algorithm,
    Batch,
    Cost,
    DivergedError,
    Draws,
    Optimizer,
    Point,
    Problem,
    Result,
    Task,
)

__version__ = VERSION

# Programs are imported when they are used first: they need optional packages.
_PROGRAMS = {"clean": "bilevel.cleaning", "influence": "bilevel.cleaning"}


def __getattr__(name: str) -> Any:
    if name not in _PROGRAMS:
        raise AttributeError(f"module 'bilevel' has no attribute {name!r}")
    return getattr(importlib.import_module(_PROGRAMS[name]), name)


__all__ = [
    # the protocol
    "Algorithm",
    "Batch",
    "Cost",
    "DivergedError",
    "Draws",
    "Optimizer",
    "Point",
    "Problem",
    "Result",
    "Task",
    # data and driver
    "Certificate",
    "Certify",
    "Checkpoint",
    "Host",
    "advance",
    "certificate",
    "full",
    "initial_state",
    "minibatches",
    "run",
    # differentiating through a solver
    "Info",
    "SolutionInfo",
    "first_order",
    "hypergradient",
    "implicit",
    "inner_gradient",
    "optimal_probability",
    "solution",
    "unbiased",
    "unified_hypergradient",
    "unrolled",
    "zeroth_order",
    # checking
    "Advice",
    "Report",
    "advise",
    "check",
    # programs
    "clean",  # pyright: ignore[reportUnsupportedDunderAll]
    "influence",  # pyright: ignore[reportUnsupportedDunderAll]
    # parts
    "accelerate",
    "adam_derivative",
    "cg",
    "count_blocks",
    "decreasing_batches",
    "descend",
    "embedded",
    "heavy_ball",
    "implicit_direction",
    "lineax_solver",
    "momentum",
    "nested",
    "nesterov",
    "neumann",
    "neumann_direction",
    "page",
    "penalty_direction",
    "plain",
    "random_product",
    "richardson",
    "saga",
    "single_loop",
    "spider",
    "storm",
    # extending
    "BlockSource",
    "Estimator",
    "InnerSolver",
    "LinearSolver",
    "Oracle",
    "Pulled",
    "Response",
    "Source",
    "Terms",
    "as_variables",
    "hessian_product",
    "measures",
    "move",
    "products",
    # algorithms
    *algorithms.__all__,
]
