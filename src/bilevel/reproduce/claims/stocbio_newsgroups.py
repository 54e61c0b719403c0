"""stocBiO on 20 Newsgroups, one L2 strength a word: what moves the strengths, and who wins."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.algorithms import aid_bio, reverse, itd_bio, stocbio
from bilevel.datasets.newsgroups import word_counts
from bilevel.linear import cg, richardson
from bilevel.report.reproduce_figures import Line, lines
from bilevel.report.tables import Cell, Column, Table
from bilevel.reproduce.curves import Setting, cost_table, curve, even_points
from bilevel.reproduce.search import grid
from bilevel.reproduce.types import Claim, Finding, Picture, at_most, shown, verdict
from bilevel.sampling import full, minibatches
from bilevel.types import Problem

WORDS = 2000


class Messages(NamedTuple):
    """Messages as dense rows of unit norm, `{"features", "labels"}` of each part."""

    train: Any
    valid: Any
    tuning: Any
    test: Any


def messages(rows: int | None, words: int, seed: int = 0) -> Messages:
    """Rows of the most frequent words, 2000 for each loss (half of all when None)."""
    counts, labels, test_counts, test_labels, _ = word_counts()
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    kept = np.argsort(-frequency, kind="stable")[:words]
    order = np.random.default_rng(seed).permutation(len(labels))

    def table(counts, labels):
        dense = counts[:, kept].toarray().astype(np.float32)
        dense /= np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1)
        return {"features": jnp.asarray(dense), "labels": jnp.asarray(labels, jnp.int32)}

    parts = [order[i * rows : (i + 1) * rows] for i in range(3)]
    return Messages(*(table(counts[p], labels[p]) for p in parts), table(test_counts, test_labels))


def strengths(words: int, classes: int = 20) -> Problem:
    """Softmax regression without a bias.

    g = mean CE + mean_jc exp(x_j) y_jc^2 / 2,   f = mean CE on other rows
    """

    def loss(y, batch):
        logits = batch["features"] @ y
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]))

    def inner(x, y, batch):
        return loss(y, batch) + 0.5 * jnp.mean(jnp.exp(x)[:, None] * y**2)

    return Problem(lambda x, y, batch: loss(y, batch), inner)
