"""The extractor that docs/extractors.md shows, taken from the page: what is shown is what runs."""

import re
import sys
from pathlib import Path

NAME = "mylab.edges:Edges"
_PAGE = Path(__file__).parents[2] / "docs" / "extractors.md"


def install(folder: Path) -> Path:
    """Write ``mylab/edges.py`` below ``folder``, outside the package; the folder to import from."""
    code = re.search(r"^```python\n(.*?)^```", _PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert code is not None
    (folder / "mylab").mkdir(parents=True)
    (folder / "mylab" / "edges.py").write_text(code[1], "utf-8")
    return folder


def forget() -> None:
    """Unload it again."""
    for name in ("mylab", "mylab.edges"):
        sys.modules.pop(name, None)
