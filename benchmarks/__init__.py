"""Measurements of Trishake beside what one could use instead. Start at README.md."""
