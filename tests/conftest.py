"""Settings of every test: no time is asserted, hypothesis's own limit included."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
