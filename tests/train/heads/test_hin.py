from tests.contracts import HeadContract


class TestHin(HeadContract):
    head = "hin"
    options = {"dim": 32, "heads": 4, "hidden": 64}
    dims = {"grid": 24, "region": 20}
    rows = {"grid": 9, "region": 7}
