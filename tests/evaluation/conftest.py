"""Fixtures that other folders share."""

from made_up import (  # noqa: F401
    emotion_run,
    grid_run,
    unrendered,
)
