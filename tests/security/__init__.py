"""Hostile or accidental input: each is refused at once, and harms nothing else."""
