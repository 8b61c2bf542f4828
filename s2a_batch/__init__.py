"""System 2 Attention over whole files: rewrite each prompt without what misleads, answer from the rewrite alone.

Method: arXiv 2311.11829. The command line is `s2a-batch`; `s2a_batch.worker.run_job` runs a job from Python.
Importing this package loads nothing else.
"""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
