import torch

from precap.train.contract import Words
from precap.train.heads.transformer import PLUGIN
from tests.contracts import HeadContract

SMALL = {"dim": 16, "heads": 2, "hidden": 32, "encoder_layers": 1, "decoder_layers": 2}


class TestTransformer(HeadContract):
    head = "transformer"
    options = {**SMALL, "largest_grid": 16}
    dims = {"grid": 12, "region": 10, "global": 6}
    rows = {"grid": 9, "region": 5}


class TestPostNorm(HeadContract):
    head = "transformer"
    options = {**SMALL, "pre_norm": False, "tie": False, "positions": "learned", "largest_grid": 16}
    dims = {"region": 10}
    rows = {"region": 5}


def test_dropped_words_and_rows_only_matter_in_training() -> None:
    config = PLUGIN.Config(
        **SMALL, dropout=0.0, input_dropout=0.0, word_dropout=0.5, row_dropout=0.5
    )
    head = PLUGIN(config, {"grid": 12}, Words(20, 0, 1, 2, 3))
    tokens, grid = torch.tensor([[[1, 5, 6, 7, 8, 9]]]), torch.randn(1, 9, 12)
    with torch.no_grad():
        training = [head(head.encode({"grid": grid}, {}), tokens) for _ in range(2)]
        head.eval()
        settled = [head(head.encode({"grid": grid}, {}), tokens) for _ in range(2)]
    assert not torch.equal(*training)
    assert torch.equal(*settled)
