#!/usr/bin/env python3
"""Runs a command on a terminal of its own: standard input is typed there, what is shown there is printed.

usage: terminal.py COMMAND [ARGUMENT...]

Ends with the command's exit code, when everything it showed has been printed (script(1) of util-linux gives the
last output of a command that has ended 10 ms, which a loaded machine exceeds).
"""
import os, pty, sys

# Without the echo of what is typed: a test looks for what the command says.
quiet = ["sh", "-c", 'stty -echo; exec "$@"', "sh"]
sys.exit(os.waitstatus_to_exitcode(pty.spawn(quiet + sys.argv[1:])))
