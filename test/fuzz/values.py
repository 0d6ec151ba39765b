"""Random values: what is usual, what is at an edge, and what an attacker would try."""
import json

PIECES = ['', ' ', 'a', 'User', 'u-1', '雄一郎', '😀', 'é', '\u202e', '\ufffd', '\t', '\n', '\r\n', '\x01', '\x7f', "'", '"', '$', '$x', '\\', '%',
          '%2e', '%2E%2e', '%2f', '%00', '%zz', '.', '..', '/', '//', '/../', '?', '#', '@', ':', ';', '&', '=', ',', '{}', '[', '*', '-1',
          '1s', '250ms', 'true', 'http://', 'https://', '127.0.0.1', '[::1]', '\r\nX-Injected: 1', '\nX-Injected: 1', 'NULL', 'x' * 70,
          'x' * 300, 'y' * 3000]
NUMBERS = [0, 1, -1, 2, 3, -4, 100, 1023, 1024, 2 ** 31 - 1, -2 ** 31, 2 ** 31, 2 ** 63 - 1, -2 ** 63]


class Values:
    def __init__(self, random):
        self.random = random

    def choice(self, *of):
        return self.random.choice(of)

    def some(self, value, chance=0.1):
        """The value, or now and then None."""
        return None if self.random.random() < chance else value

    def text(self):
        if self.random.random() < 0.3:
            return ''.join(chr(self.random.choice([self.random.randrange(1, 128), self.random.randrange(0xa0, 0xd800)]))
                           for _ in range(self.random.randrange(12)))
        return ''.join(self.random.choice(PIECES) for _ in range(self.random.choice([1, 1, 2, 4])))

    def name(self):
        """Mostly one that is there."""
        return self.text() if self.random.random() < 0.2 else self.choice('User', 'Order', 'Nothing', 'Thing')

    def identifier(self):
        return self.text() if self.random.random() < 0.2 else f'u-{self.random.randrange(8)}'

    def number(self):
        return self.random.choice(NUMBERS) if self.random.random() < 0.5 else self.random.randrange(20)

    def integer(self):
        return max(-2 ** 31, min(2 ** 31 - 1, self.number()))

    def uuid(self):
        return f'00000000-0000-4000-8000-{self.random.choice([0, 1, 2, self.random.getrandbits(40)]):012x}'

    def value(self, depth=0):
        """What JSON can say."""
        kind = self.random.randrange(9 if depth < 4 else 6)
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        if kind > 6:
            return {self.text() if self.random.random() < 0.5 else self.choice('$sender', '$x', 'events', 'kind', 'reply', 'state'):
                    self.value(depth + 1) for _ in range(self.random.randrange(4))}
        return [None, True, self.number(), self.text(), 1.5e300, 'plain'][kind]

    def json(self):
        text = json.dumps(self.value())
        if self.random.random() < 0.03:
            return self.choice('[' * 900 + ']' * 900, '"\\u0000"', '{"a":', '"\\ud800"', '1e400', '', '{"a": 1, "a": 2}', 'x', '9' * 2000)
        return text

    def object(self):
        return json.dumps({self.text() or 'k': self.choice(self.text(), [self.text(), self.text()], self.value())
                           for _ in range(self.random.randrange(4))})

    def bytes(self):
        return bytes(self.random.randrange(256) for _ in range(self.random.randrange(40)))

    def effect(self):
        """What jsonb_populate_record makes an effect of, and now and then none."""
        def event():
            return self.some({'event_type': self.some(self.choice('Done', 'Odd', self.text()), 0.05), 'data': self.some(self.value(), 0.05),
                              'metadata': self.some(self.choice({}, {'a': 1}, self.value()), 0.5)}, 0.05)
        return {
            'kind': self.some(self.choice('persist', 'persist', 'persist', 'persist', 'reject', self.text()), 0.03),
            'events': self.some([event() for _ in range(self.random.choice([0, 1, 1, 2, 5]))]),
            'reply': self.value(),
            'reason': self.some(self.text()), 'code': self.some(self.text()), 'detail': self.value(),
        }

    def mutated(self, data):
        """Bytes with some of them changed, removed, repeated or put in."""
        data = bytearray(data)
        for _ in range(self.random.choice([0, 1, 1, 2, 5, 20])):
            at = self.random.randrange(len(data) + 1)
            what = self.random.randrange(5)
            if what == 0 and at < len(data):
                data[at] = self.random.randrange(256)
            elif what == 1:
                del data[at:at + self.random.randrange(10)]
            elif what == 2:
                data[at:at] = data[at:at + self.random.randrange(40)]
            elif what == 3:
                data[at:at] = self.random.choice([b'\r\n', b'\n', b'\0', b':', b' ', b'\xff', b'\r\n\r\n', b'9' * 30, b'-1', b'%s', b';'])
            else:
                data[at:] = b''
        return bytes(data)

    def response(self):
        """An answer of HTTP, mutated or not."""
        body = self.choice(b'', b'{"a": 1}', b'{"a":', b'"\\u0000"', b'caf\xe9', b'[' * 5000, b'x' * 20000, self.bytes(),
                           b'2\r\nab\r\n0\r\n\r\n', b'5;x=y\r\nabcde\r\n0\r\nT: 1\r\n\r\n', b'\x1f\x8b\x08\0\0\0\0\0\0\x03K\xcc\x01\0', b'\x1f\x8b\x08\0')
        lines = [b'HTTP/1.1 ' + self.choice(b'200 OK', b'200', b'204 No', b'100 Continue\r\n\r\nHTTP/1.1 200 OK', b'101 Switching', b'304 Not',
                                            b'302 Found', b'404 ' + self.bytes(), b'503 Busy', b'999 X', b'000 X', b'99999999999 X', b'2 X')]
        for _ in range(self.random.randrange(8)):
            lines.append(self.choice(
                b'Content-Length: ' + str(len(body)).encode(), b'Content-Length: ' + str(self.number()).encode(),
                b'Content-Type: application/json', b'Content-Type: application/problem+json; charset="utf-8', b'Content-Type: ' + self.bytes(),
                b'Transfer-Encoding: chunked', b'Transfer-Encoding: gzip, chunked', b'Content-Encoding: gzip', b'Content-Encoding: br, gzip, x',
                b'Retry-After: 7', b'Retry-After: 99999999999999999999', b'Retry-After: Wed, 21 Oct 2015 07:28:00 GMT', b'Retry-After: -1',
                b'Location: http://169.254.169.254/', b'Set-Cookie: a=1', b'set-cookie: b=2', b'X-High: caf\xe9', b'X-Nul: a\0b', b'X-Empty:',
                b' folded', b'no colon', b': no name', b'X' * 3000 + b': 1', b'Connection: close', b'X-Bytes: ' + self.bytes()))
        answer = b'\r\n'.join(lines) + b'\r\n\r\n' + body
        return self.mutated(answer) if self.random.random() < 0.5 else answer
