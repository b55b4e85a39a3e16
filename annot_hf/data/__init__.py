"""Votes, targets, corpora, audio: everything before a model, and never torch."""
