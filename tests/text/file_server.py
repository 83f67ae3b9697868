"""A web server on this machine with one file, and with the faults that servers and networks have."""

from http.server import BaseHTTPRequestHandler

from tests.local_server import LocalServer


class FileServer(LocalServer):
    """`with FileServer(content) as server:` serves `content` at `server.url`, whatever the path.

    Attributes:
        content: what is served; may be replaced.
        headers: sent along, ETag or Last-Modified for one.
        ranges: whether Range is honoured, and if_range whether If-Range is.
        cut: bytes of a body after which the connection is closed, once.
        length: whether Content-Length is told; without it the body comes in chunks.
        status: answered instead of the file, if it is not 200.
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
        ours, asked = self.server_of, self.headers.get("Range")
        ours.requests.append((self.path, asked))
        self.close_connection = True
        if ours.status != 200:
            self.send_error(ours.status)
            return
        begin, status = 0, 200
        condition = self.headers.get("If-Range")
        same = not ours.if_range or condition in (None, *ours.headers.values())
        if asked and ours.ranges and same:
            begin, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            if begin >= len(ours.content):
                self.send_error(416)
                return
        body = ours.content[begin:]
        self.send_response(status)
        for name, value in ours.headers.items():
            self.send_header(name, value)
        if status == 206:
            size = len(ours.content)
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        if ours.length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        self.end_headers()
        cut, ours.cut = ours.cut, None
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent; `requests` tells."""
