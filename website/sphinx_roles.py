"""Docstrings name other objects as Sphinx does, :func:`.name`; the website shows the name alone."""

import re

ROLE = re.compile(r':(?:attr|class|data|exc|func|meth|mod):<code>[~.]?')


def on_page_content(html: str, **_: object) -> str:
    return ROLE.sub('<code>', html)
