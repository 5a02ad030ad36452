"""Recorded steps, as a strip on paper and as frames to step through."""
