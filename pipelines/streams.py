"""The streams of the process: what may be closed, and what they cannot show."""

import io
import logging
import os
import sys

from luq.escaping import VisibleFormatter


def open_closed() -> None:
    """Give a process that was started without stdin, stdout or stderr empty ones.

    Otherwise the next file that is opened takes their place, and what is printed goes into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: the closed one
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))


def print_what_can_be_printed() -> None:
    """A stream that has no sign for a character shows its number, whatever the locale.

    Warnings of commands without a log hold nothing that commands a terminal, either.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleFormatter("%(message)s"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Send what is still to be printed nowhere: the end of the process would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
