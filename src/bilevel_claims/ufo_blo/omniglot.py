"""Entry ufo-omniglot: UFO-BLO with 20 to 60 characters a task, at equal cost."""

import flax.linen as nn

from bilevel.datasets import load_classes
from bilevel.models import MODULES
from bilevel_claims import references
from bilevel_claims.types import Claim, Finding, cited
from bilevel_claims.ufo_blo import debiased_tasks
from bilevel_claims.ufo_blo.debiased_tasks import KNOWN, OURS, STATEMENT, Benchmark, halved


class Perceptron(nn.Module):
    """Two hidden layers on pictures of half the size; cheap enough for many ways."""

    @nn.compact
    def __call__(self, images, first=None):
        """Return features (n, 64)."""
        values = halved(images).reshape(len(images), -1)
        for width in (128, 64):
            values = nn.relu(nn.LayerNorm()(nn.Dense(width, kernel_init=nn.initializers.he_normal())(values)))
        return values


def run(size: str) -> Finding:
    """Run 20 and 60 ways with a perceptron; size paper with the network and the budget of the code."""
    if size == "small":
        module, ways, budget, tested = Perceptron(), (20, 60), 2000, 100
        axes = {"inner_optimizer": (0.4,), "outer_optimizer": (0.3, 1.0, 3.0)}
    else:
        module, ways, budget, tested = MODULES["conv4-64-stride"], (20, 30, 40, 50, 60), 11_000_000, 600
        axes = {"inner_optimizer": (0.1, 0.4), "outer_optimizer": (0.01, 0.03, 0.1, 0.3, 1.0)}
    shared = {"data": load_classes("omniglot"), "inner_steps": 9, "axes": axes, "seeds": 3}
    benchmark = Benchmark(module=module, ways=ways, budget=budget, tested=tested, **shared)
    return debiased_tasks.run(benchmark)


CLAIM = Claim(
    name="ufo-omniglot",
    title="Debiased first-order steps learn many characters better at equal cost",
    paper=references.UFO_BLO,
    statement=STATEMENT.format(data="Omniglot"),
    known=cited(
        "official code",
        {
            "tasks": "1-shot, 20- to 50-way, later 5- to 60-way; one query image a class",
            "network": "four convolutions of 64 filters with stride 2 and batch normalisation",
            "inner steps": "9 of plain descent by 0.005 on summed losses, then the outer one",
            "budget": "200,000 exact meta-steps over 5 tasks, which recompute their paths",
            "outer step": "plain descent, linearly to zero, of 0.1 times the inner 0.005 on summed losses: "
            "0.01 to 0.03 on mean ones at 20 to 60 ways",
        },
    )
    | KNOWN,
    ours={
        "tasks": "1-shot, 20- and 60-way (size paper: 20- to 60-way in tens), one query image a class; "
        "tested on 100 (600) fixed tasks of new characters. Data: Omniglot, downloaded or in BILEVEL_DATA",
        "network": "196-128-64 on pictures of 14x14, each layer linear, layer norm, rectifier, and a linear "
        "head (size paper: the code's)",
        "inner steps": "9 of 0.4, the step of MAML, on mean losses (size paper: 0.1 or 0.4, searched)",
        "budget": "2,000 gradients and Hessian products a task, spent by debiased steps in the mean of their "
        "coins (size paper: 11,000,000, or 200,000 exact steps; by our estimate five years on two cores)",
        "seeds": "3, and another for the search",
    }
    | OURS,
    run=run,
    float64=False,
)
