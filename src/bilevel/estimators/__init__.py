"""Estimators: directions with less noise, made from the directions of an oracle.

An estimator receives the oracle itself, `(point, batch) -> Terms`, since some estimators call it twice
on the same minibatches.
"""

from bilevel.estimators.momentum import check_weight, momentum, plain, remember, storm
from bilevel.estimators.refresh import page, spider
from bilevel.estimators.saga import SagaTable, check_blocks, count_blocks, empty_table, recall, saga
from bilevel.estimators.types import Estimator

__all__ = [
    "Estimator",
    "SagaTable",
    "check_blocks",
    "check_weight",
    "count_blocks",
    "empty_table",
    "plain",
    "momentum",
    "page",
    "recall",
    "remember",
    "saga",
    "spider",
    "storm",
]
