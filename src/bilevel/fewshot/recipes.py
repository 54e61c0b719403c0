"""The few-shot methods by name, and changes to their hyper-parameters."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, NamedTuple, get_type_hints

from bilevel.fewshot.kinds import require_kind
from bilevel.fewshot.learner import Learner, Training, training
from bilevel.fewshot.on_features import anil, fo_itd_bio, itd_bio, protonet, pzobo
from bilevel.fewshot.whole_network import fomaml, imaml, maml, reptile, ufo_blo
from bilevel.models import Network
from bilevel.types import Optimizer, require

METHODS: dict[str, Callable[..., Learner]] = {
    method.__name__: method
    for method in (maml, fomaml, anil, imaml, reptile, itd_bio, fo_itd_bio, pzobo, ufo_blo, protonet)
}
"""Methods of few-shot learning, by name."""


class Recipe(NamedTuple):
    """A method with values of its hyper-parameters and of its training.

    Attributes:
      method: one of `METHODS`.
      hyperparameters: by name, for the factory of the method.
      training: see `Training`.
      changed: names of the values that the user gave.
    """

    method: str
    hyperparameters: dict[str, Any]
    training: Training
    changed: frozenset[str] = frozenset()

    def build(self, net: Network, ways: int, optimizer: Optimizer) -> Learner:
        """Return the learner for a network and a number of ways."""
        return METHODS[self.method](net, ways, optimizer, **self.hyperparameters)


def recipe(method: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return a method's hyper-parameters and training with some values changed.

    The defaults were found by short trials on validation classes.

    Args:
      method: one of `METHODS`.
      changes: values by name, for keyword parameters of the method's factory or for fields of `Training`
        other than `optimizer`.

    Raises:
      ValueError: for an unknown method or name, or a value of the wrong type or out of range.

    >>> recipe("anil", {"inner_steps": 3}).hyperparameters["inner_steps"]
    3
    """
    require(method in METHODS, f"algorithm must be one of {', '.join(METHODS)}", repr(method))
    changes, factory = dict(changes or {}), METHODS[method]
    own = {p.name: p.default for p in signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY}
    outer = training(factory)._asdict()
    del outer["optimizer"]
    kinds = get_type_hints(Training, include_extras=True) | get_type_hints(factory, include_extras=True)
    defaults = own | outer
    for name, value in changes.items():
        if name not in defaults:
            raise ValueError(f"{method} has no hyper-parameter {name!r}; give one of {', '.join(defaults)}")
        require_kind(name, value, kinds[name], defaults[name])
    values = defaults | changes
    return Recipe(
        method=method,
        hyperparameters={name: values[name] for name in own},
        training=training(factory)._replace(**{name: values[name] for name in outer}),
        changed=frozenset(changes),
    )
