"""The README for PyPI, where no file stands beside it: a metadata hook of hatchling.

With `Repository` in [project.urls], relative links become absolute links to the tag of this
version. Without it, they become plain text, and pictures are left out.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ReadmeHook(MetadataHookInterface):
    """Makes the long description of README.md."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the long description."""
        repository = metadata.get("urls", {}).get("Repository")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = absolute(text, repository, f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(text: str, repository: str | None, tag: str) -> str:
    """The text with links that work anywhere.

    >>> absolute("[Speed](docs/speed.md) of [torch](https://pytorch.org)", None, "v1")
    'Speed of [torch](https://pytorch.org)'
    """

    def link(match: re.Match[str]) -> str:
        mark, words, path = match.groups()
        if repository is None:
            return "" if mark else words
        kind = "raw" if mark else "blob"
        return f"{mark}[{words}]({repository.rstrip('/')}/{kind}/{tag}/{path})"

    return _RELATIVE.sub(link, text)


_RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")
