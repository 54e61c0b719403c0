"""Data sources as a user would write them, on public names alone."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax

import bilevel as b


@partial(jax.tree_util.register_dataclass, data_fields=["rows", "picks"], meta_fields=["size"])
@dataclass(frozen=True)
class RandomRows:
    """Source of minibatches of rows drawn with replacement."""

    rows: Any
    size: int
    picks: Any = None
    is_full = False

    def plan(self, key, first, count, fixed=False):
        def draw(i):
            count = len(jax.tree.leaves(self.rows)[0])
            return jax.random.randint(jax.random.fold_in(key, i), (self.size,), 0, count)

        return jax.vmap(draw)(first + jax.numpy.arange(count))

    def view(self, picks):
        return replace(self, picks=picks)

    def __getitem__(self, i):
        return jax.tree.map(lambda a: a[self.picks[i]], self.rows)

    def whole(self):
        return b.full(self.rows, None).outer


@partial(jax.tree_util.register_dataclass, data_fields=["rows", "picks"], meta_fields=["size"])
class Endless(RandomRows):
    """The source above without a whole set."""

    def whole(self):
        raise ValueError("rows never end; use an algorithm without refreshes")
