"""Published settings of few-shot runs, as far as we know them."""

from typing import Any, NamedTuple

from bilevel.types import require


class Published(NamedTuple):
    """Settings of a published run.

    Attributes:
      network: one of `models.MODULES`.
      steps: outer steps.
      changes: hyper-parameters that differ from the defaults, see `recipe`.
    """

    network: str
    steps: int
    changes: dict[str, Any]


_THESIS = {"inner_step": 0.05, "inner_steps": 10, "test_steps": 10, "outer_step": 2e-3, "tasks": 32}
_ESJ = {"inner_step": 0.01, "momentum": 0.9, "outer_step": 0.01, "tasks": 16, "smoothing": 0.1}
# The published UFO-BLO runs also choose the best probability, clip Hessian products to 0.1, and sum losses
# over images. Our losses are means over images, so our inner steps are longer. Their outer optimiser is
# gradient descent; ours is Adam with the default step size.
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
    """Return the settings of a published run.

    Raises:
      ValueError: when we know no published settings of this method on this data set.
    """
    known = sorted(algorithm for name, algorithm in PUBLISHED if name == dataset)
    rule = f"published settings on {dataset} are known only for {', '.join(known)}"
    require((dataset, method) in PUBLISHED, rule, method)
    return PUBLISHED[dataset, method]
