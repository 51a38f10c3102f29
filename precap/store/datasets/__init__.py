"""Captioned picture sets: every annotation format that is read, and the normal form it becomes."""
