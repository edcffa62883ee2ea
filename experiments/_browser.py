"""A headless Chromium that opens a file, runs JavaScript in it and takes pictures of it."""

import base64
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--no-first-run", "--disable-extensions", "--disable-background-networking", "--mute-audio",
    "--remote-debugging-pipe",
)  # fmt: skip
_READ, _WRITE = 3, 4  # where Chromium reads and writes messages


def chromium() -> str | None:
    """The path of Chromium; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@final
class Browser:
    """One page of a Chromium, spoken to through a pipe by the DevTools protocol."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer, self._rest, self._count = reader, writer, b"", 0
        self._session: str | None = None
        self.errors: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime"):
            self._ask(f"{domain}.enable")

    def open(self, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file, and wait until its `ready` is fulfilled."""
        self.errors.clear()
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self._ask("Page.navigate", url=page.resolve().as_uri())
        for _ in range(600):
            if self.run("document.readyState === 'complete'"):
                break
            time.sleep(0.05)
        self.run("(async () => { if (typeof ready !== 'undefined') await ready; })()")

    def run(self, script: str) -> Any:
        """The value of an expression, a promise awaited.

        Raises:
            RuntimeError: if the script throws.
        """
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        answer = self._ask("Runtime.evaluate", expression=script, **options)
        if "exceptionDetails" in answer:
            raise RuntimeError(_words(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self._ask(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )  # fmt: skip

    def wait(self, script: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > end:
                raise TimeoutError(f"{script} is still false after {seconds} s")
            time.sleep(0.05)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write what the window shows, or the whole page, as PNG."""
        data = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **(
            {"clip": {**self._size(), "x": 0, "y": 0, "scale": 1}} if whole else {}
        ))["data"]  # fmt: skip
        path.write_bytes(base64.b64decode(data))

    def _size(self) -> dict[str, int]:
        root = "document.documentElement"
        width, height = self.run(f"[{root}.clientWidth, {root}.scrollHeight]")
        return {"width": width, "height": height}

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        raw = json.dumps(message).encode() + b"\0"
        while raw:
            raw = raw[os.write(self._writer, raw) :]
        while (answer := self._next()).get("id") != self._count:
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(_words(answer["params"]["exceptionDetails"]))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._reader, 1 << 16)
            if not part:
                raise RuntimeError("Chromium has ended.")
            self._rest += part
        raw, self._rest = self._rest.split(b"\0", 1)
        return json.loads(raw)


def _words(details: dict[str, Any]) -> str:
    return details.get("exception", {}).get("description") or details["text"]


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser of its own, which ends with the block.

    Raises:
        FileNotFoundError: if there is no Chromium on PATH.
    """
    program = chromium()
    if program is None:
        raise FileNotFoundError(f"There is none of {', '.join(NAMES)} on PATH.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        (read, to), (answers, write) = os.pipe(), os.pipe()
        # Numbers that the two wanted ones do not collide with.
        read_high, write_high = (_high(end) for end in (read, write))
        child = os.posix_spawn(
            program,
            [program, *_FLAGS, f"--user-data-dir={folder}"],
            dict(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, read_high, _READ),
                (os.POSIX_SPAWN_DUP2, write_high, _WRITE),
            ],
            setpgroup=0,
        )
        for end in (read_high, write_high):
            os.close(end)
        try:
            yield Browser(answers, to)
        finally:
            for end in (answers, to):
                os.close(end)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGTERM)
            os.waitpid(child, 0)


def _high(end: int) -> int:
    """A copy of a file descriptor with a number above 9."""
    import fcntl

    copy = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return copy
