"""What every test runs under; fixtures belong to the directories that use them."""

from hypothesis import settings

# No deadline per example: a busy machine or a sanitizer must not fail a test.
settings.register_profile("wgpy", deadline=None)
settings.load_profile("wgpy")
