"""Fixtures that other folders share."""

from small_runs import *  # noqa: F403
