"""``python -m hdvkit`` is the ``hdvkit`` command."""

from hdvkit.cli import main

main()
