"""A local page that shows a game as it is played and labelled. It answers this machine only."""

from __future__ import annotations

import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from lapa.errors import DataError
from lapa_envs.live.game import Moment
from lapa_envs.live.picture import picture

PATIENCE = 10.0
"""Seconds after which a page that waits for news is told that there is none."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Latent actions, live</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem; color: #222; }
img { width: 100%; image-rendering: pixelated; border: 1px solid #ddd; }
ol { list-style: none; padding: 0; font-variant-numeric: tabular-nums; }
ol li:first-child { font-weight: bold; }
</style></head><body>
<h1>Latent actions, live</h1>
<img id="view" src="/frame.png" alt="next frame, the frame as the model draws it, and the codes">
<ol id="log"></ol>
<script>
const view = document.getElementById("view"), log = document.getElementById("log");
async function follow(after) {
  try {
    const state = await (await fetch(`/state?after=${after}`)).json();
    if (state.step > after) {
      const picture = await (await fetch(`/frame.png?step=${state.step}`)).blob();
      URL.revokeObjectURL(view.src);
      view.src = URL.createObjectURL(picture);
      const line = document.createElement("li");
      line.textContent = state.status;
      log.prepend(line);
      while (log.children.length > 12) log.lastChild.remove();
    }
    setTimeout(follow, 0, state.step);
  } catch (error) {
    document.title = "Latent actions: ended";
  }
}
follow(-1);
</script></body></html>
"""


class LivePage:
    """Serves the page at ``http://127.0.0.1:<port>/``.

    Args:
        port: 0 takes any that is free.

    Raises:
        DataError: the port is taken.
    """

    def __init__(self, port: int) -> None:
        try:
            self._server = _Server(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"--port {port}: cannot be used ({reason}); take another, or 0 for any") from None
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def show(self, moment: Moment) -> None:
        """Shows a step to all who look."""
        buffer = io.BytesIO()
        Image.fromarray(picture(moment)).save(buffer, format="png", compress_level=1)
        with self._server.news:
            self._server.step, self._server.status, self._server.png = moment.step, moment.status, buffer.getvalue()
            self._server.news.notify_all()

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.news = threading.Condition()
        self.step, self.status, self.png = -1, "", b""

    def handle_error(self, *request: Any) -> None:
        """A page that was closed while it was answered is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*request)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:  # the name that http.server asks for
        # A page of another site may have a name that leads here; its requests carry that name.
        if self.headers.get("Host") not in {f"{host}:{self.server.server_port}" for host in ("127.0.0.1", "localhost")}:
            self.send_error(403)
            return
        address = urlsplit(self.path)
        if address.path == "/":
            self._answer("text/html; charset=utf-8", PAGE.encode())
        elif address.path == "/state":
            self._answer("application/json", json.dumps(self._state(parse_qs(address.query))).encode())
        elif address.path == "/frame.png":
            with self.server.news:
                self.server.news.wait_for(lambda: self.server.png, PATIENCE)
                png = self.server.png
            self._answer("image/png", png)
        else:
            self.send_error(404)

    def _state(self, query: dict[str, list[str]]) -> dict[str, Any]:
        try:
            after = int(query.get("after", ["-1"])[0])
        except ValueError:
            after = -1
        with self.server.news:
            self.server.news.wait_for(lambda: self.server.step > after, PATIENCE)
            return {"step": self.server.step, "status": self.server.status}

    def _answer(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Says nothing: the terminal has its own line."""
