"""Corpora: readers, export, what plain load_dataset sees, what is refused, and that a failed export leaves no trace."""
