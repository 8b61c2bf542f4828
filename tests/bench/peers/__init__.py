"""Other ways to do the same work, each one small script that is run with the interpreter of its own environment."""
