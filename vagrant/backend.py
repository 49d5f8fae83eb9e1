"""Answers every HTTP request with its own name and the address that the client came from."""

import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Backend(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self):
        """Says who answers and who asked."""
        body = f"{sys.argv[1]} on {socket.gethostname()}, asked by {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Keeps the journal quiet."""


ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Backend).serve_forever()
