"""Fixtures for the tests of the claims."""

import jax
import pytest

from bilevel.report import figures


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    """Draw figures with few pixels, which is fast."""
    monkeypatch.setattr(figures, "RESOLUTION", 50)


@pytest.fixture
def as_users_have_it():
    """Use JAX's defaults; the settings of the other tests would refuse what JAX allows."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
