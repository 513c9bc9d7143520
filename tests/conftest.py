"""Settings of every test: no time is asserted, hypothesis's own limits included. And what needs a network."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.real_models import UnreachableError, fetch_models

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Commands and workers that tests start read compiled modules; without them each compiles the whole package once more.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


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
