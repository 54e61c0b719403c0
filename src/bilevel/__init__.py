"""Bilevel optimisation in JAX: learn one thing so that another, trained on it, does well."""

from bilevel import tasks
from bilevel.algorithms import aid_bio, fsla, itd_bio, pzobo, soba, stocbio
from bilevel.calculus import inner_gradient
from bilevel.checkpoint import Checkpoint
from bilevel.combinators import constrain, nested, single_loop
from bilevel.directions import implicit_direction, neumann_direction, penalty_direction
from bilevel.driver import advance, run
from bilevel.estimators import minibatch, momentum, storm
from bilevel.hypergradient import Info, hypergradient
from bilevel.inner import descend
from bilevel.linear import cg, lineax, neumann, richardson
from bilevel.response import first_order, implicit, solution, truncated, unrolled, zeroth_order
from bilevel.sampling import Host, full, minibatches
from bilevel.types import Algorithm, Batch, Cost, DivergedError, Draws, Point, Problem, Result

__version__ = "0.1.0"

__all__ = [
    # the protocol
    "Algorithm",
    "Batch",
    "Cost",
    "DivergedError",
    "Draws",
    "Point",
    "Problem",
    "Result",
    # data and driver
    "Checkpoint",
    "Host",
    "advance",
    "full",
    "minibatches",
    "run",
    # differentiating through a solver
    "Info",
    "first_order",
    "hypergradient",
    "implicit",
    "inner_gradient",
    "solution",
    "truncated",
    "unrolled",
    "zeroth_order",
    # parts
    "cg",
    "constrain",
    "descend",
    "implicit_direction",
    "lineax",
    "minibatch",
    "momentum",
    "nested",
    "neumann",
    "neumann_direction",
    "penalty_direction",
    "richardson",
    "single_loop",
    "storm",
    # algorithms
    "aid_bio",
    "fsla",
    "itd_bio",
    "pzobo",
    "soba",
    "stocbio",
    # ready-made problems
    "tasks",
]
