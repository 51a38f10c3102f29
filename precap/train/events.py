"""What the trainer tells its caller while it works."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["start", "phase", "step", "validation", "saved", "note", "end"]


@dataclass(frozen=True)
class Event:
    """``step`` of ``total`` (of the whole run); ``values``: loss, lr, reward, scores ... as floats.

    seconds_left: the estimated rest of the run. message: a sentence for people, may be empty.
    """

    kind: Kind
    step: int = 0
    total: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float = 0.0
    message: str = ""


def ignore(event: Event) -> None:
    """The listener that does nothing."""
