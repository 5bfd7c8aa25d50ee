"""For mkdocs: links to files of the repository that are not part of the site become paths."""

import re

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, **context) -> str:
    return OUTSIDE.sub(r"\1 (`\2`)", markdown)
