"""Tutorials as Jupyter notebooks, made from the text of their pages."""

import json
import re

# Blocks of python are cells to run; everything between them is text.
_BLOCK = re.compile(r"^```python\n(.*?)^```\n?", re.DOTALL | re.MULTILINE)


def has_code(markdown: str) -> bool:
    return _BLOCK.search(markdown) is not None


def notebook(markdown: str) -> str:
    """The page as a notebook of format 4.5.

    >>> cells = json.loads(notebook("# Sum\\n\\n```python\\n1 + 1\\n```\\n"))["cells"]
    >>> [cell["cell_type"] for cell in cells]
    ['markdown', 'code']
    """
    pieces = _BLOCK.split(markdown)  # text and code in turn
    cells = [_cell(index, piece) for index, piece in enumerate(pieces) if piece.strip()]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1) + "\n"


def _cell(index: int, piece: str) -> dict[str, object]:
    is_code = index % 2 == 1
    source = (piece if is_code else _text(piece)).strip().splitlines(keepends=True)
    kind = "code" if is_code else "markdown"
    cell: dict[str, object] = {"cell_type": kind, "id": f"cell-{index}", "metadata": {}}
    extra = {"execution_count": None, "outputs": []} if is_code else {}
    return cell | extra | {"source": source}


def _text(piece: str) -> str:
    """Without what only the site has: pictures, marks, and links to its other pages."""
    piece = re.sub(r"^!\[[^\n]*\n?", "", piece, flags=re.MULTILINE)
    piece = re.sub(r"<!--.*?-->\n?", "", piece, flags=re.DOTALL)
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", piece)
