"""float64, strict promotion and errors for warnings: tests measure numbers, not runs."""

import itertools

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

_ENDED = itertools.count(1)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(autouse=True)
def _forget_compiled_programs():
    # Hardly any program serves two tests, and thousands of them would fill the memory.
    yield
    if next(_ENDED) % 30 == 0:
        jax.clear_caches()
