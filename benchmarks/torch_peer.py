"""The loop of peers that learn by PyTorch: commands are lines of JSON on the standard input, answers go as lines to the
standard output::

    {"make": {sizes}, "compile": false}   a new learner, on rows that are drawn here
    {"update": 100}                       updates, sampling included; answer: seconds, and of the processor
    {"plan": 16}                          another method, once, with this argument; answer: the same

A script calls `serve` with the class of its learners: made of (sizes, device), they have a method ``update``. It is started as
``PYTHON SCRIPT THREADS DEVICE``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch


def serve(learner: Callable[[dict[str, Any], str], Any]) -> None:
    threads, device = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed goes elsewhere
    say = lambda value: print(json.dumps(value), file=answers, flush=True)
    made: Any = None
    say({"torch": torch.__version__})
    for line in sys.stdin:
        asked = json.loads(line)
        if "make" in asked:
            made = learner(asked["make"], device)
            if asked.get("compile"):
                made.update = torch.compile(made.update)
            try:
                made.update()
                say(True)
            except Exception as e:  # compilation works on some machines only
                say(str(e).splitlines()[0][:200])
        else:
            ((what, given),) = asked.items()
            begun, cpu = time.perf_counter(), time.process_time()
            if what == "update":
                for _ in range(given):
                    made.update()
            else:
                getattr(made, what)(given)
            if device != "cpu":
                torch.cuda.synchronize()
            say([time.perf_counter() - begun, time.process_time() - cpu])
