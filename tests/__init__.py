"""The tests of s2a_batch, and the doubles they share."""
