"""What a collector of traces does, as far as a test needs it."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.ports import free_port


class Collector:
    """A real collector's part: takes OTLP over HTTP, and remembers it."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.posts.append((self.path, dict(self.headers), body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._handler = Handler
        self.port = free_port()

    @contextmanager
    def running(self) -> Iterator[None]:
        with http.server.ThreadingHTTPServer(("127.0.0.1", self.port), self._handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            yield
            server.shutdown()
            thread.join()

    def spans(self) -> list[tuple[str, Any]]:
        """Every span that came, with the component that sent it."""
        return [
            (_component(resource), span)
            for _, _, body in tuple(self.posts)
            for resource in parsed(body)
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def _component(resource: Any) -> str:
    named = {one.key: one.value.string_value for one in resource.resource.attributes}
    return str(named["medai.component"])


def parsed(body: bytes) -> Any:
    """An export's spans, by resource."""
    return ExportTraceServiceRequest.FromString(body).resource_spans
