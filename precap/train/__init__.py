"""Captioning heads trained from cached tensors."""
