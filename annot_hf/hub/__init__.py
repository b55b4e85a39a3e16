"""The Hub: what a model and a corpus say of themselves there, and what of them goes there."""
