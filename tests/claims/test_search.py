"""Hyper-parameter search of the claims: scores, budgets, seeds and edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_claims.page import run_page
from bilevel_claims.search import chosen, grid, late, tune
from cases.claims import EXPERIMENT, follow
from cases.reports import example_run


def test_a_grid_scores_every_trial_and_a_diverged_one_is_infinitely_bad():
    axes = {"outer_optimizer": [0.25, 0.5, 3.0, 1e200]}
    search = grid("follow", follow, axes, EXPERIMENT, score="size", steps=5)
    np.testing.assert_allclose(search.scores, [0.75**5, 0.5**5, 2.0**5, np.inf], rtol=1e-12)
    assert search.best == {"outer_optimizer": 0.5} and search.edge == ()
    assert search.budget == "5 steps" and search.score == "size"


def test_the_page_warns_of_a_best_value_at_the_edge():
    search = grid("follow", follow, {"outer_optimizer": [0.1, 0.2, 0.3]}, EXPERIMENT, score="size", steps=5)
    assert search.best == {"outer_optimizer": 0.3} and search.edge == ("outer_optimizer",)
    assert "The best outer step of soba is at the edge" in run_page(
        example_run(search=search._replace(method="soba"))
    )


def test_whole_numbers_are_an_axis_too_and_axes_keep_their_order():
    axes = {"outer_optimizer": [0.5, 1e200], "inner_steps": (1, 2, 3), "inner_optimizer": [0.5, 1.0]}
    search = grid("follow", follow, axes, EXPERIMENT, score="size", steps=1)
    assert search.scores.shape == (2, 3, 2)
    # After d inner steps of 0.5, y = dy/dx = 1 - 0.5^d.
    rest = 1 - 0.5 * (1 - 0.5 ** np.arange(1.0, 4.0)) ** 2
    np.testing.assert_allclose(search.scores[0], np.stack([rest, np.full(3, 0.5)], 1), rtol=1e-12)
    assert set(search.best) == set(axes) and search.best["inner_steps"] in (1, 2, 3)


def test_a_budget_of_calls_gives_cheap_methods_more_steps():
    axes = {"inner_steps": (1, 4), "outer_optimizer": [0.5]}
    search = grid("follow", follow, axes, EXPERIMENT, score="size", calls=42)
    # T + 1 gradients and T of each product: 4 calls a step, or 13.
    np.testing.assert_allclose(search.scores[:, 0], [0.5**10, 0.5**3], rtol=1e-12)
    assert search.budget == "42 oracle calls"


def test_a_score_sees_the_path_and_names_itself():
    def area(values):
        """Mean size over the trial."""
        return values["size"].mean()

    search = grid("follow", follow, {"outer_optimizer": [0.5]}, EXPERIMENT, score=area, steps=4, points=2)
    np.testing.assert_allclose(search.scores, [(0.25 + 0.0625) / 2], rtol=1e-12)
    assert search.score == "Mean size over the trial"
    second = grid(
        "follow", follow, {"outer_optimizer": [0.5]}, EXPERIMENT, score=late("size"), steps=4, points=4
    )
    np.testing.assert_allclose(second.scores, [(0.125 + 0.0625) / 2], rtol=1e-12)


def test_scores_are_means_over_seeds_and_one_lost_seed_loses_the_trial():
    def start(key):
        return jnp.where(jax.random.key_data(key)[-1] == 7, jnp.inf, 1.0), jnp.zeros(())

    experiment = EXPERIMENT._replace(start=start, seeds=(0, 7))
    with pytest.raises(ArithmeticError, match="every trial of follow diverged"):
        grid("follow", follow, {"outer_optimizer": [0.5]}, experiment, score="size", steps=2)
    assert grid(
        "follow", follow, {"outer_optimizer": [0.5]}, experiment._replace(seeds=(0, 1)), score="size", steps=2
    )


def test_exactly_one_budget():
    for budget in ({}, {"steps": 1, "calls": 1}):
        with pytest.raises(ValueError, match="exactly one budget"):
            grid("follow", follow, {"outer_optimizer": [0.5]}, EXPERIMENT, score="size", **budget)


def test_float32_stays_float32_under_traced_step_sizes():
    start = jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
    experiment = EXPERIMENT._replace(start=lambda key: start)
    search = grid("follow", follow, {"outer_optimizer": [0.25, 0.5]}, experiment, score="size", steps=3)
    assert search.scores[1] == 0.125


def test_tuning_gives_every_method_the_same_trials_and_shows_other_seeds():
    experiment = EXPERIMENT._replace(start=lambda key: (jax.random.normal(key), jnp.zeros(())), seeds=(0, 1))
    axes = {"outer_optimizer": [0.25, 0.5]}
    searches, curves = tune({"one": follow, "two": follow}, axes, experiment, score="size", calls=20, shown=5)
    np.testing.assert_array_equal(searches[0].scores, searches[1].scores)
    starts = [abs(jax.random.normal(jax.random.key(seed))) for seed in (100, 101, 102)]
    np.testing.assert_allclose(searches[0].scores, np.mean(starts) * np.array([0.75, 0.5]) ** 5, rtol=1e-12)
    assert [(c.label, c.calls[-1]) for c in curves] == [("one", 20), ("two", 20)]
    starts = [abs(jax.random.normal(jax.random.key(seed))) for seed in (0, 1)]
    np.testing.assert_allclose(curves[0].values["size"][:, 0], starts, rtol=1e-12)


def test_the_best_trial_of_given_scores_is_chosen():
    words = {"score": "loss", "budget": "1 step"}
    search = chosen("a", {"rate": (0.1, 0.2, 0.3)}, np.array([2.0, np.nan, 1.0]), **words)
    assert search.best == {"rate": 0.3} and search.edge == ("rate",) and search.scores[1] == np.inf
    with pytest.raises(ArithmeticError, match="every trial of a diverged"):
        chosen("a", {"rate": (0.1, 0.2, 0.3)}, np.full(3, np.nan), **words)
