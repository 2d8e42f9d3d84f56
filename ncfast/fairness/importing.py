"""What another process imports, and what it never does: the script that is running already."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path
from typing import Any

from .errors import EvaluationError

__all__ = ["MARK", "START", "ModelReader", "script_of"]

# A line that begins the replies: what a system's own start files print comes before it.
MARK = b"--ncfast replies--\n"
# What another process runs. Its first folder to import from is the one it is started in, which may
# hold a pickle.py of the user's. It imports ncfast from the very file that the process that asks
# did, which may have changed its folder since.
START = f"""\
import sys
sys.path[:] = filter(None, sys.path)
import importlib.util, os, pickle, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks decides what an interrupt is
parent, replies = os.getppid(), os.fdopen(os.dup(1), "wb")
try:
    os.dup2(2, 1)  # what a library prints is no reply
except OSError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
replies.write(b"\\n" + {MARK!r})
replies.flush()
sys.path[:], place, script = pickle.load(sys.stdin.buffer)
try:
    spec = importlib.util.spec_from_file_location("ncfast", place)
    sys.modules["ncfast"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["ncfast"])
    from ncfast.fairness.asking import serve
except Exception as error:
    said = f"{{type(error).__name__}}: {{error}}".partition("\\n")[0]
    pickle.dump(("cannot", said), replies)
    replies.flush()
    os._exit(1)
serve(replies, script, parent)
"""


def script_of() -> str | None:
    """Return the file that this process was started with; None of a notebook or a console."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return str(Path(file).resolve()) if file else None


class ModelReader(pickle.Unpickler):
    """Read a model that another process wrote, and import anything but what that one runs.

    A script without a guarded main part would do everything again.
    """

    def __init__(self, stream: Any, script: str | None) -> None:
        super().__init__(stream)
        self._script = script

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names."""
        if module == "__main__" or (module not in sys.modules and self._is_script(module)):
            raise EvaluationError(
                f"its {name} is defined in what is being run, {self._script or 'a console'}, which "
                "another process would have to run again; expected a module of its own"
            )
        return super().find_class(module, name)

    def _is_script(self, module: str) -> bool:
        found = importlib.util.find_spec(module)
        origin = None if found is None else found.origin
        return bool(origin and self._script) and Path(str(origin)).resolve() == Path(
            str(self._script)
        )
