"""The command line ``kern``.

=====  =============================================================================================================
code   when
=====  =============================================================================================================
0      done; a worker that was told to stop, by any signal
1      it could not be done: wrong configuration, an application or task module that raises when it is imported, a
       server that cannot be reached, a task that failed (``result``, ``call --wait``), a question answered with no
2      the command line is wrong: unknown command or option, a value that cannot be used, an application that does
       not exist
73     the pidfile belongs to a worker that is alive
=====  =============================================================================================================

What a command prints goes to stdout, and with ``--json`` that is one JSON document and nothing else. Logs, questions
and errors go to stderr; an error is one line, with passwords masked.

===================  ==================================================================================================
`root`               the command ``kern``: finds sub-commands without importing the others
`global_options`     options that may stand before and after the sub-command
`session`            what those options say, and the application they lead to
`discovery`          from ``-A`` to an application
`extensions`         commands and options that plugins add
`celery_options`     what to do instead of an option of Celery's that does not exist here
`failures`           errors as one line and an exit code
`values`             types of values: JSON, times, lists, levels
`printing`           tables and JSON
`commands`           one module each
===================  ==================================================================================================

A plugin's command gets at the application by ``kern.cli.session.pass_app``.
"""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """The entry point ``kern``; exits."""
    from kern.cli.root import root

    root.main(prog_name="kern")
    raise AssertionError("click ends the process")
