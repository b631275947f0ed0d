"""A server on loopback that answers what a test tells it to, and notes what it was asked."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeServer:
    """`script` holds what is answered in turn: (status, body) or seconds to wait before the last.

    The last entry is repeated. `asked`: (path, headers, body) of every request; `most`: requests
    that were under way together.
    """

    def __init__(self, script):
        self.script = list(script)
        self.asked = []
        self.now = self.most = 0
        self.lock = threading.Lock()

    def answer(self, path, headers, body):
        with self.lock:
            self.asked.append((path, headers, body))
            self.now += 1
            self.most = max(self.most, self.now)
            step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        status, content, *wait = step
        time.sleep(sum(wait))
        with self.lock:
            self.now -= 1
        return status, content


@contextlib.contextmanager
def serving(*script):
    """(url up to /v1, FakeServer) within the block. A body of bytes is sent as it is."""
    fake = FakeServer(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = fake.answer(
                self.path, {key.lower(): value for key, value in self.headers.items()}, body
            )
            content = content(body) if callable(content) else content
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.send_header("retry-after-ms", "10")
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
