"""What the user should know about a training before its first step."""

from precap.train.roles import Source
from precap.train.run import Recipe


def of(recipe: Recipe) -> list[str]:
    """Everything that a recipe does and that its user may not expect."""
    return _views(list(recipe.sources.values()))


def _views(sources: list[Source]) -> list[str]:
    """Stores of one view beside stores of several."""
    several = {s.store: s.spec.views for s in sources if s.spec.views > 1}
    single = sorted({s.store for s in sources} - set(several))
    if not several or not single:
        return []
    many = ", ".join(f"{name} has {count} views" for name, count in sorted(several.items()))
    return [
        f"{many}, {', '.join(single)} has one: its rows, made from the picture as it is, go with "
        f"every view of the others."
    ]
