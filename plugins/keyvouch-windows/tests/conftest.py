"""Fixtures for this plugin's tests."""

from scripted_windows import scripted  # noqa: F401 - a fixture
