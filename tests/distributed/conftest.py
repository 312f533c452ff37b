"""One pool of four processes for all tests of this folder."""

from collections.abc import Iterator

import pytest
from process_pool import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    found = Pool(4)
    yield found
    found.close()
