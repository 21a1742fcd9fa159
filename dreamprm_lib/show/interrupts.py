"""What an interrupted cell says: that nothing is lost."""

from IPython.core.getipython import get_ipython

KEPT = (
    "Interrupted. No table is half written, and completions and features that were finished are kept: run the cell "
    "again, and it goes on from there."
)


def explain_interrupts() -> None:
    """Let a notebook add `KEPT` to the traceback of a cell that was interrupted; outside of one, do nothing."""
    if shell := get_ipython():
        shell.set_custom_exc((KeyboardInterrupt,), _explain)


def _explain(shell, kind, error, trace, tb_offset=None) -> None:
    error.add_note(KEPT)
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
