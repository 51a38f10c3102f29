"""Run the command line in this process: exit code, stdout, stderr."""

import sys
from pathlib import Path

import pytest

from precap import cli


class Precap:
    """Calls ``precap ARGS`` as the console script does, in a folder of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *args: str | Path, code: int = 0) -> str:
        """stdout of the command, which must leave with ``code``."""
        found, out, err = self.result(*args)
        assert found == code, f"exit code {found}, expected {code}\n{out}\n{err}"
        return out

    def refused(self, *args: str | Path, code: int) -> str:
        """stderr of a command that must fail with ``code``, one message and no traceback."""
        found, _, err = self.result(*args)
        assert found == code, f"exit code {found}, expected {code}\n{err}"
        assert "Traceback" not in err
        return err

    def result(self, *args: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["precap", *map(str, args)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = self._capsys.readouterr()
        return code, out, err
