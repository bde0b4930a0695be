"""A web service for routes."""

import http.server
import json
import os
import socket
import ssl
import sys
import threading
import time
import urllib.parse

from .certs import certs
from .ports import free_port, is_listening
from .proc import temp_dir
from .server import Server


class Web:
    """routes: {identifier: destination}. answer(handler, identifier): instead
    of the usual answer; it may return (status, body) or have answered
    itself (None)."""

    def __init__(self, routes=None, answer=None, tls=None, port=None):
        self.routes = routes or {}
        self.answer = answer
        self.asked = []
        self.headers = []
        self.connections = 0
        self.open = set()
        self.port = port or free_port()
        self._tls = tls
        self.server = None

    def start(self):
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                web.connections += 1
                web.open.add(self.request)
                super().setup()

            def finish(self):
                web.open.discard(self.request)
                super().finish()

            def do_GET(self):
                url = urllib.parse.urlsplit(self.path)
                query = urllib.parse.parse_qs(url.query, encoding="latin-1",
                                              keep_blank_values=True)
                user = query.get("user", [""])[0]
                web.asked.append(self.path)
                web.headers.append(dict(self.headers))
                said = (web.answer or web.usual)(self, user)
                if said is not None:
                    web.say(self, *said)

            def log_message(self, *_args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_args):
                pass

        self.server = Server(("127.0.0.1", self.port), Handler)
        if self._tls:
            ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            ctx.load_cert_chain(certs().cert(self._tls),
                                certs().key(self._tls))
            self.server.socket = ctx.wrap_socket(
                self.server.socket, server_side=True,
                do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, args=(0.01,),
                         daemon=True).start()
        return self

    def usual(self, _handler, user):
        if user in self.routes:
            return 200, self.routes[user] + "\n"
        return 404, "no such user\n"

    @staticmethod
    def say(handler, status, body, **headers):
        data = body.encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            for s in list(self.open):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.server = None

    def output(self, _start=0):
        return "\n".join(self.asked)


class WebProcess(Server):
    """One in a process of its own, which can be stopped. Whoever is called
    slow... hears it after so many seconds. tls: the name of its
    certificate."""

    def __init__(self, tls=None, seconds=1.5):
        self.port = free_port()
        self.tls = tls
        self.seconds = seconds
        self.dir = temp_dir("mailferry-web-")
        self.log_path = os.path.join(self.dir, "log")
        self.known = {}
        self.routes({})

    def routes(self, routes):
        self.known.update(routes)
        path = os.path.join(self.dir, "routes")
        with open(path + ".next", "w", encoding="utf-8") as f:
            json.dump(self.known, f)
        os.rename(path + ".next", path)

    def start(self):
        pair = [certs().cert(self.tls), certs().key(self.tls)] if self.tls \
            else []
        self.launch([sys.executable, "-B", "-m", "harness.web", self.port,
                     self.dir, self.seconds, *pair], "web")
        return self

    def answers(self):
        return is_listening(self.port, self.process.pid)

    def url(self, scheme="http", host="127.0.0.1"):
        return f"{scheme}://{host}:{self.port}/route?user=%u"


def main(port, directory, seconds, *pair):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            user = urllib.parse.unquote(self.path.split("=", 1)[1])
            if user.startswith("slow"):
                time.sleep(float(seconds))
            with open(os.path.join(directory, "routes"),
                      encoding="utf-8") as f:
                routes = json.load(f)
            if user in routes:
                Web.say(self, 200, routes[user])
            else:
                Web.say(self, 404, "no such user")

        def log_message(self, *_args):
            pass

    class Listener(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128
    server = Listener(("127.0.0.1", int(port)), Handler)
    if pair:
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ctx.load_cert_chain(*pair)
        server.socket = ctx.wrap_socket(server.socket, server_side=True,
                                        do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
