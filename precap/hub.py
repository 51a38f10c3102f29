"""Files of a Hugging Face repository: from its cache on this machine, or from the hub in reach."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

REACH = 3.0  # seconds to wait for the hub's door


def fetch(repo: str, files: Sequence[str], *, offline: bool) -> Path | None:
    """The first of ``files`` that ``repo`` has, downloaded unless ``offline``; None without one."""
    from huggingface_hub import hf_hub_download

    if not repo or not (offline or reachable()):
        return None
    for file in files:
        try:
            return Path(hf_hub_download(repo, file, local_files_only=offline, etag_timeout=5))
        except Exception:  # offline, unknown name, no rights: all mean "not from here"
            continue
    return None


def reachable() -> bool:
    """Whether the hub answers at all: without this, saying that a file is missing takes minutes."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        address = (host.hostname or "", host.port or 443)
        with socket.create_connection(address, timeout=REACH):
            return True
    except OSError:
        return False
