"""A notebook with the cells that docs/install.md shows, run by Jupyter's kernel. Ends with a count of its calls."""

from __future__ import annotations

import nbclient
import nbformat

CELLS = (
    "from opentelemetry.instrumentation import auto_instrumentation\nauto_instrumentation.initialize()",
    "import questions\nwith questions.on_behalf_of('ada'):\n    questions.plain('ada')",
    "with questions.on_behalf_of('bob'):\n    questions.streamed('bob')",
)
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
