"""SPICE (Anderson et al., ECCV 2016) through its jar; needs Stanford CoreNLP 3.6.0 beside it."""

from collections.abc import Sequence

from precap.evaluate import java


def scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], seconds: float | None = None
) -> list[float]:
    """SPICE F-score of each caption."""
    raise java.Unavailable("SPICE's CoreNLP files are not installed")
