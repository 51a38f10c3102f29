"""Tests; a package so that test modules can share the contracts and the golden cases."""
