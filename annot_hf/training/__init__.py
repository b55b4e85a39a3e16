"""From an exported corpus and a recipe to a trained checkpoint and its predictions."""
