"""What `fit` shows while it trains: a bar by tqdm, or one line per epoch, or nothing."""

import sys
from typing import Any

from .history import MONITORED, History


class Progress:
    """A bar on a terminal, plain lines elsewhere or without tqdm, both on stderr.

    "auto" shows the bar or nothing, True a bar or lines, False nothing.
    """

    def __init__(self, wanted: Any, epochs: int, rows: int) -> None:
        """Take what is wanted; rows: of an epoch."""
        if not isinstance(wanted, bool) and wanted != "auto":
            raise ValueError(f"progress: expected 'auto', True or False, got {wanted!r}")
        self._epochs, self._rows = epochs, rows
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._wants_bar = wanted is not False and terminal
        self._lines = wanted is True
        self._bar: Any = None

    def begin(self, rows: int) -> None:
        """Show that so many rows have been trained on."""
        if not self._wants_bar:
            return
        try:
            from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            return
        total = self._epochs * self._rows
        self._bar = tqdm(total=total, initial=rows, unit="row", unit_scale=True)

    def advance(self, rows: int) -> None:
        """Show that so many more have been."""
        if self._bar is not None:
            self._bar.update(rows)

    def epoch(self, history: History) -> None:
        """Show the last epoch's losses and metrics."""
        if self._bar is None and not self._lines:
            return
        parts = [f"epoch {history.epochs}/{self._epochs}"]
        for name in (*MONITORED, *history.metrics):
            values = history.values(name)
            if values:
                parts.append(f"{name} {values[-1]:.4g}")
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
        else:
            print("  ".join(parts), file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
