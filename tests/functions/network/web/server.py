"""Fetches the URL in its path, and serves on $PORT."""

import http.server
import os
import urllib.parse
import urllib.request


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["url"][0]
        with urllib.request.urlopen(url, timeout=2) as reply:
            body = reply.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
