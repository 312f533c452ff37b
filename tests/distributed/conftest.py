"""Pools of four and of two processes for all tests of this folder."""

from collections.abc import Iterator

import pytest
from process_pool import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    found = Pool(4)
    yield found
    found.kill()


@pytest.fixture(scope="session")
def pair() -> Iterator[Pool]:
    """Two processes: `fit` takes all that there are."""
    found = Pool(2)
    yield found
    found.kill()
