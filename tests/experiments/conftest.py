"""What several of the tests of the experiments share."""

from collections.abc import Iterator

import pytest

from .children import Children


@pytest.fixture(scope="session")
def children() -> Iterator[Children]:
    children = Children()
    yield children
    children.close()
