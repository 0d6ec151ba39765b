"""A service that answers a request for .../r/N with what the seed draws for N, and keeps what it was asked."""
import random
import re
import socket
import socketserver
import struct
import threading
from urllib.parse import unquote

from values import Values

REQUEST_LINE = re.compile(rb'(GET|HEAD|POST|PUT|PATCH|DELETE) (/api[!-~]*) HTTP/1\.1')
HEADER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:( [^\r\n\0]*)?")


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.settimeout(2)
        try:
            head = b''
            while b'\r\n\r\n' not in head:
                received = self.request.recv(65536)
                if not received:
                    return
                head += received
            self.server.heads.append(head.split(b'\r\n\r\n')[0])
            number = re.search(rb'/r/(\d+)', head)
            values = Values(random.Random(f'{self.server.seed} {number[1].decode() if number else ""}'))
            self.request.sendall(values.response())
            if values.random.random() < 0.1:            # a reset instead of an orderly end
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        except OSError:
            pass


class Service(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, seed):
        super().__init__(('127.0.0.1', 0), Handler)
        self.seed, self.heads = seed, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]

    def offences(self):
        """What is wrong with the requests since the last time: nobody may leave the base URL, or write a header of his own."""
        heads, self.heads = self.heads, []
        for head in heads:
            first, *lines = head.split(b'\r\n')
            match = REQUEST_LINE.fullmatch(first)
            if not match or any(part in ('.', '..') for part in unquote(match[2].decode()).partition('?')[0].split('/')):
                yield f'the request line {first!r}'
            for line in lines:
                if not HEADER_LINE.fullmatch(line) or line.lower().startswith(b'x-injected'):
                    yield f'the header {line!r}'
            if sum(line.lower().startswith(b'host:') for line in lines) != 1:
                yield f'no host, or two: {head!r}'
