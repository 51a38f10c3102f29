"""What the user should know about a training before its first step."""

from pathlib import Path

from precap.train.roles import Source
from precap.train.run import Recipe
from precap.train.settings import Text, TrainConfig

#: What a vocabulary was made by; a training that takes another run's has these of that run.
SETTLED = ("threshold", "size", "counted", "layout", "stop")


def of(asked: TrainConfig, recipe: Recipe) -> list[str]:
    """Everything that ``recipe`` does and that the user, who asked for this, may not expect."""
    notes = _views(list(recipe.sources.values()))
    if recipe.config.init_run is not None:
        begun = recipe.config.init_run
        base = Recipe.read(begun / "run.json")
        notes += _words(begun, asked.text, base.config.text) + _features(begun, base, recipe)
    return notes


def of_first_weights(recipe: Recipe) -> list[str]:
    """That nothing trains the weights of a run that begins, and nobody gave them."""
    c = recipe.config
    if c.xe.epochs or c.scst.epochs or c.init is not None or c.init_run is not None:
        return []
    known = getattr(recipe.head_config, "language_model", "")
    return [
        "There is nothing to train (no epochs) and nothing to begin with (--init, --init-run): "
        "the weights of this run are random, untrained"
        + (f", but for the language model {known}." if known else ".")
    ]


def _words(begun: Path, asked: Text, base: Text) -> list[str]:
    """Options of the vocabulary that the run to begin with has already settled."""
    unsaid = Text()
    given = [n for n in ("vocabulary", "files") if getattr(asked, n) != getattr(unsaid, n)]
    other = [
        f"text.{name}={getattr(base, name)}, not {getattr(asked, name)}"
        for name in (*given, *SETTLED)
        if getattr(asked, name) != getattr(base, name)
    ]
    return [f"The vocabulary is that of {begun}: {'; '.join(other)}."] if other else []


def _features(begun: Path, base: Recipe, recipe: Recipe) -> list[str]:
    """Roles whose features were made otherwise for the run to begin with."""
    other = [
        f"{role} was {_made(old)}, now {_made(new)}"
        for role, new in recipe.sources.items()
        if (old := base.sources.get(role)) is not None and _identity(old) != _identity(new)
    ]
    if not other:
        return []
    return [
        f"{begun} was trained on other features: {'; '.join(other)}. Its weights do not know "
        f"these yet."
    ]


def _made(source: Source) -> str:
    field, fingerprint = _identity(source)
    return f"{field} of store {source.store} ({fingerprint[:12]})"


def _identity(source: Source) -> tuple[str, str]:
    return source.field.name, source.spec.fingerprint


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
