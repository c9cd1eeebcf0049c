"""A headless Chromium, driven over its DevTools pipe: JSON messages that end in a zero byte, on two inherited descriptors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any


class Browser:
    """Use it as a context; it ends with it."""

    def __init__(self, program: str, profile: Path):
        to_read, self.out = os.pipe()
        self.into, to_write = os.pipe()
        # The descriptors that Chromium talks on are 3 and 4. Not by a shell: dash knows those of one digit alone.
        launch = f"import os, sys; [os.dup2(a, b) for a, b in zip([{to_read}, {to_write}, 103, 104], [103, 104, 3, 4])]; "
        launch += "os.execv(sys.argv[1], sys.argv[1:])"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([sys.executable, "-c", launch, program, *flags], pass_fds=(to_read, to_write), **quiet)
        os.close(to_read)
        os.close(to_write)
        self.count, self.rest, self.session = 0, b"", ""

    def __enter__(self) -> Browser:
        found = self._ask("Target.createTarget", url="about:blank")
        self.session = self._ask("Target.attachToTarget", targetId=found["targetId"], flatten=True)["sessionId"]
        self._ask("Page.enable")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.into)

    def open(self, url: str) -> None:
        self._ask("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        return self._ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.05)

    def key(self, name: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def _ask(self, method: str, **params: Any) -> Any:
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                more = os.read(self.into, 65536)
                assert more, "the browser has ended"
                self.rest += more
            line, _, self.rest = self.rest.partition(b"\0")
            reply = json.loads(line)
            if reply.get("id") == self.count:
                assert "error" not in reply, reply
                return reply["result"]
