"""`python -m s2a_batch` and the `s2a-batch` command."""

from __future__ import annotations

from s2a_batch.cli import main

if __name__ == "__main__":
    main()
