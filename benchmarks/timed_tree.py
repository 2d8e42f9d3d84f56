"""What a process of one tree does for ``benchmarks.before_after``: time the calls it is asked for.

It is run as a file with PYTHONPATH at the tree that it times, and uses of that tree what all of
them have: ``benchmarks.cases`` and ``benchmarks.providers``. Questions and answers are lines of
JSON: ["titles"], ["prepare", title, providers] and ["call", provider].
"""

import json
import os
import sys
import time
from typing import Any

REST_SECONDS = 0.02  # before each call: threads of the other process may still wait actively


def main() -> None:
    """Answer until the questions end."""
    threads, quick = int(sys.argv[1]), sys.argv[2] == "quick"
    del sys.path[0]  # this folder, of another tree
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import torch

    from benchmarks.cases import cases
    from benchmarks.providers import PROVIDERS, prepare

    torch.set_num_threads(threads)
    known = {case.title: case for case in cases(quick)}
    ready: dict[str, Any] = {}
    for line in sys.stdin:
        what, *words = json.loads(line)
        if what == "titles":
            answer = list(known)
        elif what == "prepare":
            ready.clear()  # before the next one is made: some are gigabytes
            case, inputs = known[words[0]], known[words[0]].inputs()
            names = [name for name in words[1] if case.name in PROVIDERS[name]]
            ready.update((name, prepare(name, case.name, inputs)) for name in names)
            answer = names
        else:
            made = ready[words[0]]
            time.sleep(REST_SECONDS)
            begin = time.perf_counter()
            made.call()
            answer = (time.perf_counter() - begin) * made.scale
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
