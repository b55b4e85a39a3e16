"""Predictions and votes to numbers; without torch, Matplotlib and Jinja2."""
