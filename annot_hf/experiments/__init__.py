"""Where training meets evaluation: cross-validation, plans of systems, saturation, saliency."""
