"""Benches: too long for the suite, each one command that judges itself."""
