from tests.contracts import HeadContract


class TestParallel(HeadContract):
    head = "grit"
    options = {"dim": 32, "heads": 4, "hidden": 64}
    dims = {"grid": 24, "region": 20}
    rows = {"grid": 9, "region": 7}


class TestSequential(TestParallel):
    options = {**TestParallel.options, "fusion": "sequential"}


class TestConcatenated(TestParallel):
    options = {**TestParallel.options, "fusion": "concatenated"}
