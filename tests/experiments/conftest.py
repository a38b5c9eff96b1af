"""What several of the tests of the experiments share."""

from collections.abc import Iterator

import pytest

from .children import Children


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and processes that they start, keep decoded images in a folder of their own."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ADVERSARIAL_DROPOUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def children(_no_cache_of_the_users: None) -> Iterator[Children]:
    children = Children()
    yield children
    children.close()
