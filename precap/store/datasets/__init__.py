"""Captioned picture sets: every annotation format that is read, and the normal form it becomes."""

from precap.store.datasets.dataset import Dataset, Item, load
from precap.store.datasets.prepare import prepare
from precap.store.datasets.problems import Report

__all__ = ["Dataset", "Item", "Report", "load", "prepare"]
