"""Metrics, significance, predictions, the HTML report."""
