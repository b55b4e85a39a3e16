"""Votes from audio-language models that stand in for raters (arXiv 2601.14620); torch only where a model runs here."""
