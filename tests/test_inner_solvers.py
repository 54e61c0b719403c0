"""Inner solvers obey their protocol."""

import optax
import pytest

import bilevel as b
from bilevel.inner import descend_until
from bilevel.testing import check_inner_solver

EARLY = {"stops_early": True}
MEMBERS = {
    "descend": (lambda p: b.descend(p, 0.5, 5), {}),
    "descend, momentum": (lambda p: b.descend(p, optax.sgd(0.3, momentum=0.5), 5), {}),
    "descend, last": (lambda p: b.descend(p, 0.5, 5, last=2), {"truncated": True}),
    "descend, recompute": (lambda p: b.descend(p, 0.5, 9, recompute=2), EARLY),
    "accelerate": (lambda p: b.accelerate(p, 1.0, 5, condition=2.0), {}),
    "embedded": (lambda p: b.embedded(b.descend(p, 0.5, 5), lambda x, minibatch: x), {}),
    "descend_until": (lambda p: descend_until(p, 0.5, 50, tolerance=1e-3), EARLY),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_obeys_the_protocol(name):
    make, settings = MEMBERS[name]
    check_inner_solver(make, **settings)
