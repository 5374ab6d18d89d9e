"""What mkdocs is told beyond mkdocs.yml: where the documents lie, and how a docstring names things.

The documents stay where a reader of the repository looks for them, so that a link between two of
them works there as it does on the website.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCUMENTS = ('*.md', 'CITATION.cff', 'LICENSE', 'docs/*.*', 'docs/*/*', 'examples/*.py')
ROLE = re.compile(r':(?:attr|class|data|exc|func|meth|mod):<code>[~.]?')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of the repository, each under the path that it has there."""
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_content(html: str, **_: object) -> str:
    """Docstrings name other objects as Sphinx does, :func:`.name`; the website shows the name."""
    return ROLE.sub('<code>', html)
