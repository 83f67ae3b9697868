"""A local web server for one file that simulates the failures of servers and networks."""

from http.server import BaseHTTPRequestHandler

from tests.local_server import LocalServer


class FileServer(LocalServer):
    """Serve `content` at `server.url` and at any other path: `with FileServer(content) as server:`.

    Attributes:
        content: bytes to serve; may be replaced.
        headers: additional response headers, e.g. ETag or Last-Modified.
        ranges: whether to honour the Range header.
        if_range: whether to honour the If-Range header.
        cut: number of body bytes after which the next response is cut off; None for never.
        length: whether to send Content-Length; otherwise the body is sent in chunks.
        status: status to answer with; the file is sent only for 200.
        requests: path and Range header of each request.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.headers = content, {"ETag": '"1"'}
        self.ranges = self.if_range = self.length = True
        self.cut: int | None = None
        self.status = 200
        self.requests: list[tuple[str, str | None]] = []
        super().__init__(_Handler)
        self.url = f"{self.address}/file.zip"


class _Handler(BaseHTTPRequestHandler):
    server_of: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server, range_header = self.server_of, self.headers.get("Range")
        server.requests.append((self.path, range_header))
        self.close_connection = True
        if server.status != 200:
            self.send_error(server.status)
            return
        start, status = 0, 200
        condition = self.headers.get("If-Range")
        unchanged = not server.if_range or condition in (None, *server.headers.values())
        if range_header and server.ranges and unchanged:
            start, status = int(range_header.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(server.content):
                self.send_error(416)
                return
        body = server.content[start:]
        self.send_response(status)
        for name, value in server.headers.items():
            self.send_header(name, value)
        if status == 206:
            size = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        self.end_headers()
        cut, server.cut = server.cut, None
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing; tests look at `requests`."""
