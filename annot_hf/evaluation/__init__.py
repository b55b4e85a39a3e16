"""Scores with honest intervals, plots and reports; works without torch."""
