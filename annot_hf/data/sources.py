"""Where votes come from: people, or models that stand in for them (arXiv 2601.14620)."""

SYNTHETIC = "synthetic"  # the source of every vote of a model; a vote of any other source, or of none, is a person's
