"""Files to votes, targets and predictions; never imports torch."""
