"""Random keys for several uses of one key."""

import zlib
from typing import Any

import jax


def key_for(use: str, key: Any) -> Any:
    """Return the key of a named use, which no other use shares.

    The i-th key of `jax.random.split(key, n)` equals `jax.random.fold_in(key, i)`. A small constant in
    `fold_in` is therefore the key of some part of a split. The number of a name is at least 2^31.

    Args:
      use: name of the use.
      key: random key, or None.

    Returns:
      A key, or None if `key` is None.
    """
    return None if key is None else jax.random.fold_in(key, zlib.crc32(use.encode()) | 1 << 31)
