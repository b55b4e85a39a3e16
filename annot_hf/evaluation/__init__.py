"""Predictions and votes to numbers."""

import sys

from annot_hf.data import predictions

# Programs from before the move to `data` import it by this name.
sys.modules[f"{__name__}.predictions"] = predictions
