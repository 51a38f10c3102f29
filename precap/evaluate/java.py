"""Run a Java program that may be missing, die, hang or talk nonsense, and always come back."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path


class Unavailable(Exception):
    """A metric cannot be had here; the text says why and what to do. The others keep theirs."""


def find() -> Path:
    """The Java program: $JAVA_HOME/bin/java, else ``java`` on the path."""
    home = os.environ.get("JAVA_HOME")
    if home and (java := Path(home) / "bin" / "java").is_file():
        return java
    if found := shutil.which("java"):
        return Path(found)
    raise Unavailable("there is no Java here; install a JRE (8 or newer) or set JAVA_HOME")


@cache
def version(java: Path) -> str:
    """First line of ``java -version``, for the record kept with the scores."""
    output = _communicate([str(java), "-version"], "", Path.cwd(), 60)
    return (output[0] + output[1]).strip().splitlines()[0] if any(output) else "unknown"


def run(arguments: Sequence[str], text: str, folder: Path, seconds: float) -> str:
    """stdout of ``java *arguments`` fed with ``text``; Unavailable if it fails or takes too long.

    stdin, stdout and stderr are drained together, so that no full pipe can stall the program;
    it runs in its own process group, which is killed whatever happens here.
    """
    output, errors, code = _communicate([str(find()), *arguments], text, folder, seconds)
    if code != 0:
        died = f"was killed by signal {-code}" if code < 0 else f"left with code {code}"
        raise Unavailable(f"Java {died}: {_reason(errors) or 'without a message'}")
    return output


def _communicate(
    command: list[str], text: str, folder: Path, seconds: float
) -> tuple[str, str, int]:
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"{command[0]} could not be started: {error.strerror}") from error
    try:
        output, errors = process.communicate(text, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"Java gave no answer within {seconds:.0f} s and was stopped") from error
    finally:
        _kill(process)
    return output, errors, process.returncode


def _kill(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _reason(errors: str) -> str:
    """The line of stderr that says most: the first that names an error, else the first."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "xception" in line]
    return [*telling, *lines, ""][0]
