"""Settings that suit each method, found by short trials on validation classes."""

import math
from typing import Any, NamedTuple

from bilevel.fewshot.learner import Settings
from bilevel.fewshot.methods import METHODS
from bilevel.types import require


class Recipe(NamedTuple):
    """How a method is trained.

    Attributes:
      settings: hyper-parameters of the method.
      outer_step: of Adam, falling to zero along a cosine (a plain step for reptile).
      tasks: episodes of a step.
      train_ways: classes of a training episode, None for as many as in the test.
      train_queries: query images a class of a training episode.
    """

    settings: Settings
    outer_step: float = 3e-3
    tasks: int = 8
    train_ways: int | None = None
    train_queries: int = 5


_WHOLE = Settings(inner_step=0.4, inner_steps=5, test_steps=10)
# The features are the same for all tasks, whose images go through them at once.
_HEAD = Settings(inner_step=0.1, inner_steps=10, test_steps=20, vectorize=True)

NETWORK = "conv4-32"
RECIPES = {
    "maml": Recipe(_WHOLE),
    "fomaml": Recipe(_WHOLE._replace(inner_step=0.1)),
    "ufo_blo": Recipe(_WHOLE._replace(inner_step=0.1), outer_step=1e-3),
    # The Hessians of networks are indefinite: without damping accuracy did not rise on photographs.
    "imaml": Recipe(_WHOLE._replace(inner_step=0.1, inner_steps=10, pull=0.3, damping=30.0)),
    # The inner steps choose among all its images, about as many as we recall from the published runs.
    "reptile": Recipe(_WHOLE._replace(inner_step=0.1, inner_steps=8), outer_step=1.0, train_queries=10),
    "anil": Recipe(_HEAD),
    "itd_bio": Recipe(_HEAD),
    "fo_itd_bio": Recipe(_HEAD),
    "pzobo": Recipe(_HEAD),
    # Many ways make it better at few: they ask more of the features.
    "protonet": Recipe(_HEAD, tasks=1, train_ways=40),
}


_EVERY = ("transductive", "vectorize", *(name for name in Recipe._fields if name != "settings"))
_TRAINED = ("inner_step", "inner_steps", "test_steps", "momentum", *_EVERY)
# The settings that a method reads.
READS = {
    "maml": ("recompute", *_TRAINED),
    "fomaml": _TRAINED,
    "ufo_blo": ("probability", "recompute", *_TRAINED),
    "imaml": ("pull", "linear_steps", "damping", *_TRAINED),
    "reptile": _TRAINED,
    "anil": ("penalty", "recompute", *_TRAINED),
    "itd_bio": ("penalty", "recompute", *_TRAINED),
    "fo_itd_bio": ("penalty", *_TRAINED),
    "pzobo": ("penalty", "directions", "smoothing", *_TRAINED),
    "protonet": _EVERY,
}

_POSITIVE = ("positive and finite", lambda value: 0 < value < math.inf)
_NOT_NEGATIVE = ("at least 0", lambda value: 0 <= value < math.inf)
_COUNT = ("at least 1", lambda value: value >= 1)
_RULES = {
    **dict.fromkeys(("inner_step", "outer_step", "pull", "smoothing"), _POSITIVE),
    **dict.fromkeys(("penalty", "damping", "inner_steps", "test_steps", "recompute"), _NOT_NEGATIVE),
    **dict.fromkeys(("tasks", "directions", "linear_steps"), _COUNT),
    "momentum": ("in [0, 1)", lambda value: 0 <= value < 1),
    "probability": ("in (0, 1]", lambda value: 0 < value <= 1),
}
_KINDS = {float: "a number", int: "a whole number", bool: "True or False"}


def recipe(method: str, changes: dict[str, Any]) -> Recipe:
    """The recipe of a method with some values changed, by the names of either tuple.

    Raises:
      ValueError: for a method that is not known, a name that it does not read, or a value of another
        kind or beyond its limits.
    """
    require(method in METHODS, f"algorithm must be one of {', '.join(METHODS)}", repr(method))
    found = RECIPES[method]
    own = set(Recipe._fields) - {"settings"}
    known = READS[method]
    for name, value in changes.items():
        require(name in known, f"a setting of {method} must be one of {', '.join(known)}", repr(name))
        before = getattr(found if name in own else found.settings, name)
        example = 5 if before is None else before
        fits = type(value) is type(example) or (isinstance(example, float) and type(value) is int)
        rule = f"{name} must be {_KINDS[type(example)]}, such as {example}"
        require(fits or value is before, rule, repr(value))
        rule, holds = _RULES.get(name, ("", lambda value: True))
        require(holds(value), f"{name} must be {rule}", value)
        if name in own:
            found = found._replace(**{name: value})
        else:
            found = found._replace(settings=found.settings._replace(**{name: value}))
    return found


class Published(NamedTuple):
    """The settings of a published run, as far as they are known to us.

    Attributes:
      network: one of `models.MODULES`.
      steps: outer steps.
      changes: of the recipe.
    """

    network: str
    steps: int
    changes: dict[str, Any]


_THESIS = {"inner_step": 0.05, "inner_steps": 10, "test_steps": 10, "outer_step": 2e-3, "tasks": 32}
_ESJ = {"inner_step": 0.01, "momentum": 0.9, "outer_step": 0.01, "tasks": 16, "smoothing": 0.1}
# Left out of the UFO-BLO runs: their optimal probability, the clipping of Hessian products to 0.1, and
# losses summed over images (means here, so that the inner steps are longer). Outside they descend plainly;
# here it is Adam, with the step of the recipe.
_UFO = {"probability": 0.2, "tasks": 5, "train_queries": 1}

PUBLISHED = {
    ("omniglot", "maml"): Published(
        "conv4-64-stride",
        60_000,
        {
            "inner_step": 0.4,
            "inner_steps": 1,
            "test_steps": 3,
            "outer_step": 1e-3,
            "tasks": 32,
            "train_queries": 15,
        },
    ),
    ("miniimagenet", "maml"): Published(
        "conv4-32",
        60_000,
        {
            "inner_step": 0.01,
            "inner_steps": 5,
            "test_steps": 10,
            "outer_step": 1e-3,
            "tasks": 4,
            "train_queries": 15,
        },
    ),
    ("omniglot", "protonet"): Published(
        "conv4-64", 20_000, {"train_ways": 60, "tasks": 1, "outer_step": 1e-3, "train_queries": 5}
    ),
    ("miniimagenet", "protonet"): Published(
        "conv4-64", 20_000, {"train_ways": 30, "tasks": 1, "outer_step": 1e-3, "train_queries": 15}
    ),
    ("miniimagenet", "itd_bio"): Published("conv4-64", 2_000, _THESIS),
    ("miniimagenet", "fo_itd_bio"): Published("conv4-64", 3_000, _THESIS),
    ("miniimagenet", "anil"): Published("conv4-64", 2_000, _THESIS),
    ("omniglot", "pzobo"): Published(
        "conv4-64", 10_000, {**_ESJ, "inner_steps": 50, "test_steps": 50, "penalty": 0.2}
    ),
    ("miniimagenet", "pzobo"): Published(
        "conv4-32", 10_000, {**_ESJ, "inner_steps": 30, "test_steps": 30, "penalty": 0.5}
    ),
    ("omniglot", "ufo_blo"): Published(
        "conv4-64-stride", 200_000, {**_UFO, "inner_step": 0.1, "inner_steps": 9, "test_steps": 9}
    ),
    ("miniimagenet", "ufo_blo"): Published(
        "conv4-32", 100_000, {**_UFO, "inner_step": 0.01, "inner_steps": 7, "test_steps": 7}
    ),
}


def paper_recipe(dataset: str, method: str) -> Published:
    """The settings of a published run.

    Raises:
      ValueError: when none is known for this method on this set.
    """
    known = sorted(algorithm for name, algorithm in PUBLISHED if name == dataset)
    rule = f"published settings on {dataset} are known for {', '.join(known)} alone"
    require((dataset, method) in PUBLISHED, rule, method)
    return PUBLISHED[dataset, method]
