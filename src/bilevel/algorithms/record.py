"""The record of each named algorithm, attached to its factory."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class About:
    """Facts about a named algorithm, and a decorator that attaches them to its factory.

    Attributes:
      family: kind of method, such as "single loop, implicit, stochastic".
      reference: authors, title, venue and year, arXiv number, then the algorithm's name in the paper.
      learns_start: whether `x` is the starting point of training on many small tasks. Such an
        algorithm does not solve a problem with one inner variable.
      direct_term_only: whether `x` moves along `f_x` alone. Nothing is learnt where f depends on `x`
        through `y` only.
      cheap: whether a step of the default settings costs at most 8 oracle calls. Programs then make more and
        smaller steps by default.
      problem_facts: hyper-parameters that describe the problem, such as its condition numbers. A task
        that knows them supplies them.
    """

    family: str
    reference: str
    learns_start: bool = False
    direct_term_only: bool = False
    cheap: bool = False
    problem_facts: tuple[str, ...] = ()

    def __call__(self, factory: Factory) -> Factory:
        """Attach the record to `factory`, and add family and reference to its docstring."""
        factory.about = self
        text = inspect.getdoc(factory)
        factory.__doc__ = f"{text}\n\nFamily: {self.family}.\n\nReference: {self.reference}."
        return factory


describe = About
"""The name of `About` above a factory: `@describe(family=..., reference=...)`."""


def about(factory: Callable[..., Any]) -> About:
    """Return the record of a named algorithm.

    >>> from bilevel import soba
    >>> about(soba).family
    'single loop, implicit, stochastic'
    """
    return factory.about


def hyperparameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keyword parameters of a factory by name.

    Each is an `inspect.Parameter`, with its default and its annotation.

    >>> from bilevel import soba
    >>> list(hyperparameters(soba))
    ['inner_optimizer', 'outer_optimizer', 'adjoint_optimizer']
    """
    parameters = inspect.signature(factory).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "problem"}
