"""Runs as rows beside the paper's numbers."""
