"""A process that was not forked but started: ``python -m kern_process_host <descriptor>``."""

from __future__ import annotations

import marshal
import os
import sys

from kern_process_host import blueprint
from kern_process_host.descriptors import whole_file
from kern_process_host.hosted import Hosted, Shared, find_function
from kern_process_host.zygote import flush_streams


def main() -> None:
    fields, hostname, name, number, shared, attached, body = marshal.loads(whole_file(int(sys.argv[1])))
    code = 70  # EX_SOFTWARE
    try:
        for descriptor in shared:
            os.set_inheritable(descriptor, False)
        app = blueprint.load(fields)
        hosted = Hosted(app, hostname, number, Shared(*shared), attached, watched=False)
        serve = find_function(name)
        code = hosted.run(lambda process: serve(process, body))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        flush_streams()
        os._exit(code)


if __name__ == "__main__":
    main()
