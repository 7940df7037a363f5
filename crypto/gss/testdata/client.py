"""A SOCKS 5 client with GSS-API (RFC 1961) on MIT's libgssapi.

usage: client.py SERVICE                   print a token in hex
       client.py SERVICE PORT LEVEL [nec] [anonymous-server]

It sends a request to a server at 127.0.0.1:PORT, and expects to get back what it
sends after that, first in datagrams and then in a stream.
"""

import os
import socket
import struct
import sys

import gssapi
from gssapi import RequirementFlag as flag

REQUEST = b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50"  # 192.0.2.1:80
VERSION, TOKEN, PROTECTION, DATA, ABORT = 1, 1, 2, 3, 0xFF


def context(service, mutual):
    flags = flag.replay_detection | flag.out_of_sequence_detection | flag.confidentiality | flag.integrity
    if mutual:
        flags |= flag.mutual_authentication
    name = gssapi.Name(service, gssapi.NameType.hostbased_service)
    return gssapi.SecurityContext(name=name, usage="initiate", flags=flags)


class Client:
    def __init__(self, service, port, mutual):
        self.context = context(service, mutual)
        self.level = 0
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(b"\x05\x01\x01")
        assert self.read(2) == b"\x05\x01", "the method is refused"
        self.establish()

    def read(self, n):
        b = b""
        while len(b) < n:
            more = self.socket.recv(n - len(b))
            if not more:
                sys.exit("ended")
            b += more
        return b

    def read_message(self, want):
        version, kind, size = struct.unpack(">BBH", self.read(4))
        if kind == ABORT:
            sys.exit("refused")
        assert (version, kind) == (VERSION, want), (version, kind)
        return self.read(size)

    def send_message(self, kind, token):
        # Head and token come apart, as curl sends them.
        self.socket.sendall(struct.pack(">BBH", VERSION, kind, len(token)))
        self.socket.sendall(token)

    def establish(self):
        self.send_message(TOKEN, self.context.step())
        reply = self.read_message(TOKEN)
        if not self.context.complete:
            assert self.context.step(reply) is None
        else:
            assert reply == b"", "a token that nobody waits for"

    def agree(self, level, nec):
        proposal = bytes([level])
        self.send_message(PROTECTION, proposal if nec else self.context.wrap(proposal, False).message)
        answer = self.read_message(PROTECTION)
        self.level = (answer if nec else self.context.unwrap(answer).message)[0]

    def wrap(self, b):
        return self.context.wrap(b, self.level == 2).message

    def unwrap(self, token):
        r = self.context.unwrap(token)
        assert r.encrypted == (self.level == 2), "not protected as agreed"
        return r.message

    def send(self, b):
        if self.level == 0:
            self.socket.sendall(b)
        else:
            self.send_message(DATA, self.wrap(b))

    def receive(self, n):
        if self.level == 0:
            return self.read(n)
        b = b""
        while len(b) < n:
            b += self.unwrap(self.read_message(DATA))
        assert len(b) == n, "more than was to come"
        return b

    def request(self):
        self.send(REQUEST)
        return self.receive(10)

    def stream(self):
        total = 0
        for size in [1, 15, 16, 17, 1000, 16384, 50000, 65400] + 20 * [40000]:
            sent = os.urandom(size)
            self.send(sent)
            assert self.receive(size) == sent, "other bytes come back"
            total += size
        self.socket.shutdown(socket.SHUT_WR)
        assert self.socket.recv(1) == b"", "more than was to come"
        return total

    def datagrams(self, port):
        relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        relay.settimeout(20)
        relay.connect(("127.0.0.1", port))
        sent = [b"\0\0\0\1\xc0\0\2\1\0\x35" + os.urandom(size) for size in (0, 1, 512, 1200, 8000)]
        packets = sent
        if self.level > 0:
            tokens = [self.wrap(b) for b in sent]
            packets = [struct.pack(">BBH", VERSION, DATA, len(t)) + t for t in tokens]
        back = []
        for packet in reversed(packets):  # as if they overtook each other
            relay.send(packet)
            if self.level > 0:
                relay.send(packet)  # again: to be dropped
                relay.send(packet[:-1])  # damaged: likewise
            b = relay.recv(65536)
            if self.level > 0:
                version, kind, size = struct.unpack(">BBH", b[:4])
                assert (version, kind, size) == (VERSION, DATA, len(b) - 4)
                b = self.unwrap(b[4:])
            back.append(b)
        assert back == sent[::-1], "other datagrams come back"
        return len(back)


def main(service, port=None, level=None, *options):
    if port is None:
        return context(service, True).step().hex()
    client = Client(service, int(port), "anonymous-server" not in options)
    client.agree(int(level), "nec" in options)
    (relay,) = struct.unpack(">8xH", client.request())
    return f"level {client.level}, {client.datagrams(relay)} datagrams, {client.stream()} bytes"


try:
    print(main(*sys.argv[1:]))
except gssapi.exceptions.GSSError as e:
    sys.exit(f"GSS-API: {e}")
