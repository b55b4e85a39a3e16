"""The Hub: what a model says of itself there, and what of models and corpora goes there."""
