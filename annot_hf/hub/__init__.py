"""What is published: cards, folders, Spaces."""
