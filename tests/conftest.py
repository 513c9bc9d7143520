"""Settings of every test: no time is asserted, hypothesis's own limit included. And what needs a network."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.real_models import UnreachableError, fetch_models

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def real_models() -> Path:
    """The folder of real templates and vocabularies. Where it cannot be fetched tests are skipped, in CI they fail."""
    try:
        return fetch_models()
    except UnreachableError as error:
        reason = f"the source distribution of llama-cpp-python cannot be fetched: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
