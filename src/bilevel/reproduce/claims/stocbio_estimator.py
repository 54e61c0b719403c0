"""stocBiO's Neumann series: its bias, what independent factors are for, and what their batches buy."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.linear import decreasing_batches, neumann, random_product
from bilevel.report.reproduce_figures import Line, lines
from bilevel.report.tables import Cell, Column, Table
from bilevel.reproduce.types import Claim, Finding, Picture, at_least, at_most, near, shown, verdict

PLACES, TRUNCATION = (3, 10, 50, 200), (0.732, 0.457, 0.0428, 1.31e-5)
TERMS, CONVEXITY = 20, 0.2
FALLING, EQUAL, REUSED = "independent, falling batches", "independent, equal batches", "one batch reused"
SINGLE, SINGLE_REUSED, PRODUCT = "independent single rows", "one row reused", "random product (BSA)"
RMSE = {FALLING: 0.034, EQUAL: 0.040, REUSED: 0.136, SINGLE: 0.286, SINGLE_REUSED: 0.573, PRODUCT: 0.840}


def run(size: str) -> Finding:
    """Truncation on matrices of known spectrum, then the noise of sampled factors."""
    draws, matrices = (4000, 200) if size == "small" else (40_000, 5000)
    error, bound, others = truncation(matrices)
    rows, rate, vector = sampled_rows()
    falling = decreasing_batches(TERMS, 4, rate, CONVEXITY)
    solvers = {
        FALLING: (neumann(TERMS, rate, counts=falling), 1, False),
        EQUAL: (neumann(TERMS, rate), 46, False),
        REUSED: (neumann(TERMS, rate), 46, True),
        SINGLE: (neumann(TERMS, rate), 1, False),
        SINGLE_REUSED: (neumann(TERMS, rate), 1, True),
        PRODUCT: (random_product(TERMS + 1, rate), 1, False),
    }
    errors = {
        label: sample(rows, rate, vector, *how, draws=5 * draws if label == PRODUCT else draws)
        for label, how in solvers.items()
    }
    sweep = {FALLING: [], EQUAL: [], "random product, equal batches": []}
    budgets = []
    for base in (0.5, 1, 2, 4, 8):
        counts = decreasing_batches(TERMS, base, rate, CONVEXITY)
        equal = round(sum(counts) / TERMS)
        hows = (
            (neumann(TERMS, rate, counts=counts), 1, False),
            (neumann(TERMS, rate), equal, False),
            (random_product(TERMS + 1, rate), equal, False),
        )
        budgets.append(sum(counts))
        for label, how in zip(sweep, hows, strict=True):
            sweep[label].append(rms(sample(rows, rate, vector, *how, draws=draws, seed=1)))
    return report(error, bound, others, errors, budgets, sweep, sum(falling))


def truncation(matrices: int):
    """Relative error and bound of the series by Q for one matrix; the worst of their ratios for many."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(30, 30))
    gram = factor @ factor.T
    first = 0.9 * gram / np.linalg.eigvalsh(gram)[-1] + 0.1 * np.eye(30)
    vector = rng.normal(size=30)
    stack, rates, floors = [first], [0.5], [0.1]
    for _ in range(matrices):
        basis = np.linalg.qr(rng.normal(size=(30, 30)))[0]
        spectrum = 10 ** rng.uniform(-3, 0, 30)
        stack.append(basis * spectrum @ basis.T)
        rates.append(rng.uniform(0.1, 1) / spectrum.max())
        floors.append(spectrum.min())

    @jax.jit
    def all_errors(stack, rates, vector):
        def one(H, rate):
            def errors(terms, total):
                # The series of `terms` factors is one term longer than the last.
                term, total = terms
                term = term - rate * H @ term
                total = total + rate * term
                return (term, total), jnp.linalg.norm(total - exact)

            exact = jnp.linalg.solve(H, vector)
            _, found = lax.scan(errors, (vector, rate * vector), length=PLACES[-1])
            return found / jnp.linalg.norm(exact), jnp.linalg.norm(exact)

        return jax.vmap(one)(stack, rates)

    errors, sizes = map(np.asarray, all_errors(*map(jnp.asarray, (np.stack(stack), rates, vector))))
    powers = np.arange(1, PLACES[-1] + 1) + 1
    shrink = (1 - np.multiply(rates, floors))[:, None] ** powers
    bounds = shrink * np.linalg.norm(vector) / (np.array(floors) * sizes)[:, None]
    return errors[0], bounds[0], float((errors / bounds).max())
