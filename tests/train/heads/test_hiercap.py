from tests.contracts import HeadContract


class TestParallel(HeadContract):
    head = "hiercap"
    options = {"dim": 32, "heads": 4, "hidden": 64, "cells": 9}
    dims = {"grid": 24, "region": 20}
    rows = {"grid": 9, "region": 7}
    fixed = frozenset({"grid"})


class TestSequential(TestParallel):
    options = {**TestParallel.options, "fusion": "sequential"}


class TestConcatenatedParallel(TestParallel):
    options = {**TestParallel.options, "fusion": "concatenated_parallel"}


class TestConcatenatedSequential(TestParallel):
    options = {**TestParallel.options, "fusion": "concatenated_sequential"}
