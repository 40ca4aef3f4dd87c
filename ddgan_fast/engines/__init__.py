"""A generator as a file that production runs without our Python model, and what runs such a file here."""
