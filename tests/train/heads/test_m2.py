from tests.contracts import HeadContract


class TestM2(HeadContract):
    head = "m2"
    options = {"dim": 32, "heads": 4, "hidden": 64, "slots": 5}
    dims = {"region": 20}
    rows = {"region": 7}
