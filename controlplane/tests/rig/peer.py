"""Programs at the ends of the rig: what a pod runs, and what a client sends."""

import hashlib
import http.server
import os
import random
import select
import socket
import socketserver
import struct
import sys
import threading
import time

REPLY_SECONDS = 5.0


class Page(http.server.BaseHTTPRequestHandler):
    """Answers with the pod's name and the client's address; /bytes/N with N octets that depend on nothing else."""

    def do_PUT(self):
        """Answers with the digest of what came."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(f"{hashlib.sha256(body).hexdigest()}\n".encode())

    def do_GET(self):
        if self.path.startswith("/bytes/"):
            body = random.Random(7).randbytes(int(self.path.removeprefix("/bytes/")))
        else:
            body = f"{self.server.pod} {self.client_address[0]}\n".encode()
        self.answer(body)

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class BothFamilies:
    """A server whose one socket takes both families; it knows IPv4 clients by their IPv4 address."""

    address_family = socket.AF_INET6

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # The library's own for HTTP asks DNS for the host's name, and nobody answers in a pod's namespace.
        socketserver.TCPServer.server_bind(self)

    def get_request(self):
        request, client = self.socket.accept()
        return request, (plain(client[0]), *client[1:])


def plain(address):
    return address.removeprefix("::ffff:")


class Pages(BothFamilies, http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class Line(socketserver.StreamRequestHandler):
    """Sends each line back behind the pod's name and the client's address."""

    def handle(self):
        for line in self.rfile:
            self.wfile.write(f"{self.server.pod} {self.client_address[0]} ".encode() + line)


class Lines(BothFamilies, socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


def bound_udp(port):
    """Takes both families; IPv4 senders have an IPv4-mapped address, which `plain` makes one of IPv4 again."""
    peer = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    peer.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    peer.bind(("::", port))
    return peer


def client_udp(address, port=0):
    """A socket of the address's family."""
    peer = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind(("", port))
    return peer


def answer_datagrams(pod, peer):
    while True:
        data, client = peer.recvfrom(65535)
        peer.sendto(f"{pod} {plain(client[0])} ".encode() + data, client)


def serve(pod, page_port="8080", line_port="9000"):
    """HTTP and UDP echo on one port, lines on the other."""
    pages, lines = Pages(("", int(page_port)), Page), Lines(("", int(line_port)), Line)
    datagrams = bound_udp(int(page_port))
    pages.pod = lines.pod = pod
    for run in (pages.serve_forever, lines.serve_forever):
        threading.Thread(target=run, daemon=True).start()
    print("listening", flush=True)
    answer_datagrams(pod, datagrams)


def serve_dns(address, records="1"):
    """Answers every question with an A record, or so many."""
    peer = bound_udp(53)
    print("listening", flush=True)
    while True:
        query, client = peer.recvfrom(4096)
        end = query.index(0, 12) + 5
        header = query[:2] + struct.pack("!HHHHH", 0x8180, 1, int(records), 0, 0)
        record = struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address)
        peer.sendto(header + query[12:end] + record * int(records), client)


def resolve(server, name):
    """Asks for the first A record of a name; None without one."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    number = struct.pack("!H", random.getrandbits(16))
    with client_udp(server) as peer:
        peer.connect((server, 53))
        peer.settimeout(1.0)
        peer.send(number + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1))
        reply = peer.recv(4096)
    answers = struct.unpack("!H", reply[6:8])[0]
    # The first record's owner is a pointer.
    start = 12 + len(labels) + 5 + 12
    return socket.inet_ntoa(reply[start : start + 4]) if reply[:2] == number and answers else None


def soak(server, domain, port, linger, stop):
    """Resolves the Services soak-0 to soak-3 in turn and connects to each at once and again later, until a file STOP is
    there, and then until all refuse. Prints answers, connects that failed though begun within `linger` of their answer,
    unanswered questions, and connects that were neither accepted nor refused."""
    answers = failures = unanswered = hung = 0
    turn = 0
    held = []
    seen = set()

    def connect(answered, address):
        nonlocal failures, hung
        begun = time.monotonic()
        try:
            socket.create_connection((address, int(port)), 3.0).close()
        except OSError as error:
            if begun - answered < float(linger):
                failures += 1
                print(f"{address}: {error} {begun - answered:.3f} s after its answer", file=sys.stderr)
            elif not isinstance(error, ConnectionRefusedError):
                hung += 1
                print(f"{address}: {error} {begun - answered:.3f} s after its answer", file=sys.stderr)
            return isinstance(error, ConnectionRefusedError)
        return False

    while not os.path.exists(stop):
        turn += 1
        asked = time.monotonic()
        try:
            address = resolve(server, f"soak-{turn % 4}.{domain}")
        except TimeoutError:
            unanswered += 1
            continue
        if address is not None:
            answers += 1
            # At once or as late as it still must work, and when it need not work any more.
            held.append((asked, asked if turn % 2 else asked + float(linger) / 2, address))
            held.append((asked, asked + 1.5 * float(linger), address))
            seen.add(address)
        now = time.monotonic()
        due = [one for one in held if one[1] <= now]
        held = [one for one in held if one[1] > now]
        for answered, _, address in due:
            connect(answered, address)
        time.sleep(0.002)
    # Nobody has the addresses now: once the linger is over, each refuses.
    end = time.monotonic() + float(linger) + 10
    while seen and time.monotonic() < end:
        seen = {address for address in seen if not connect(time.monotonic() - 2 * float(linger), address)}
        time.sleep(0.05)
    print(answers, failures, unanswered, hung + len(seen))


def udp(address, port, text, own_port="0"):
    """Sends one datagram and prints the reply, or `refused`, or `nothing`."""
    with client_udp(address, int(own_port)) as peer:
        peer.connect((address, int(port)))
        peer.settimeout(REPLY_SECONDS)
        peer.send(text.encode())
        try:
            print(peer.recv(65535).decode())
        except ConnectionRefusedError:
            print("refused")
        except TimeoutError:
            print("nothing")


def echoes(address, port, octets, count):
    """Sends datagrams of that size one by one and prints how many came back whole."""
    chance = random.Random(7)
    whole = 0
    with client_udp(address) as peer:
        peer.connect((address, int(port)))
        peer.settimeout(1.0)
        for _ in range(int(count)):
            data = chance.randbytes(int(octets))
            peer.send(data)
            try:
                whole += peer.recv(65535).endswith(data)
            except TimeoutError:
                pass
    print(whole)


def scattered(address, port, octets, count):
    """Sends datagrams in pieces in any order, each from another processor than the one before, and prints how many
    came back whole."""
    chance = random.Random(7)
    whole = 0
    with client_udp(address) as peer, socket.socket(peer.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        peer.connect((address, int(port)))
        peer.settimeout(REPLY_SECONDS)
        own, own_port = peer.getsockname()[:2]
        ends = b"".join(socket.inet_pton(peer.family, end) for end in (own, address))
        for number in range(int(count)):
            data = chance.randbytes(int(octets))
            length = 8 + len(data)
            header = struct.pack("!HHH", own_port, int(port), length)
            pseudo = ends + struct.pack("!II", length, 17)
            datagram = header + struct.pack("!H", checksum(pseudo + header + data) or 0xFFFF) + data
            pieces = [
                fragment(ends, number + 1, start, datagram[start : start + 1400], start + 1400 < length)
                for start in range(0, length, 1400)
            ]
            chance.shuffle(pieces)
            for place, piece in enumerate(pieces):
                os.sched_setaffinity(0, {place % 2})
                raw.sendto(piece, (address, 0))
            try:
                whole += peer.recv(65535).endswith(data)
            except TimeoutError:
                pass
    print(whole)


def fragment(ends, identification, start, octets, more):
    """A piece of a UDP datagram between two ends of either family."""
    if len(ends) == 8:
        place = more << 13 | start // 8
        # The kernel fills in the checksum.
        fields = (0x45, 0, 20 + len(octets), identification, place, 64, 17, 0)
        return struct.pack("!BBHHHBBH", *fields) + ends + octets
    header = struct.pack("!IHBB", 6 << 28, 8 + len(octets), 44, 64)
    return header + ends + struct.pack("!BBHI", 17, 0, start | more, identification) + octets


def probe(address, port, seconds):
    """Sends a datagram every 10 ms until the first reply and prints after how many ms it came."""
    start = time.monotonic()
    with client_udp(address) as peer:
        peer.connect((address, int(port)))
        peer.settimeout(0.01)
        while time.monotonic() - start < float(seconds):
            try:
                peer.send(b"probe")
                peer.recv(65535)
                print(round((time.monotonic() - start) * 1000))
                return
            except TimeoutError:
                pass
            except ConnectionRefusedError:
                time.sleep(0.01)
    print("nothing")


def stream(address, port):
    """Sends a datagram every 10 ms until stdin ends, then prints the longest silence between two answers in ms."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    longest, last, begun = 0.0, None, time.monotonic()
    with client_udp(address) as peer:
        peer.connect((address, int(port)))
        peer.settimeout(0.01)
        while not ended.is_set():
            start = time.monotonic()
            if last is None and start - begun > REPLY_SECONDS:
                raise SystemExit("no answer")
            try:
                peer.send(b"stream")
                peer.recv(65535)
                now = time.monotonic()
                if last is None:
                    print("answered", flush=True)
                else:
                    longest = max(longest, now - last)
                last = now
                time.sleep(max(0.0, 0.01 - (now - start)))
            except TimeoutError:
                pass
            except OSError:
                time.sleep(0.01)
    # A silence that lasts still is one.
    print(round(max(longest, time.monotonic() - last) * 1000))


def hold(address, port):
    """Holds one TCP connection: each line of stdin goes over it, each answer to stdout."""
    with socket.create_connection((address, int(port)), REPLY_SECONDS) as peer:
        peer.settimeout(REPLY_SECONDS)
        answers = peer.makefile("r")
        print("connected", flush=True)
        for line in sys.stdin:
            try:
                peer.sendall(line.encode())
                print(answers.readline().strip() or "closed", flush=True)
            except OSError as error:
                print(f"{type(error).__name__}", flush=True)


def hold_many(address, port, count):
    """Holds TCP connections: each line of stdin goes over all of them, the number of right answers to stdout."""
    peers = [socket.create_connection((address, int(port)), REPLY_SECONDS) for _ in range(int(count))]
    answers = [peer.makefile("r") for peer in peers]
    print("connected", flush=True)
    for line in sys.stdin:
        right = 0
        for peer, answer in zip(peers, answers):
            try:
                peer.sendall(line.encode())
                right += answer.readline().endswith(line)
            except OSError:
                pass
        print(right, flush=True)


def watch_many(address, port, count):
    """Holds silent TCP connections; prints when each was reset, in ns of the monotonic clock."""
    peers = [socket.create_connection((address, int(port)), REPLY_SECONDS) for _ in range(int(count))]
    poll = select.epoll()
    for peer in peers:
        poll.register(peer.fileno(), select.EPOLLIN)
    print("connected", flush=True)
    by_descriptor = {peer.fileno(): peer for peer in peers}
    deadline = time.monotonic() + 20
    while by_descriptor and time.monotonic() < deadline:
        for descriptor, _ in poll.poll(1):
            now = time.monotonic_ns()
            peer = by_descriptor.pop(descriptor)
            poll.unregister(descriptor)
            try:
                print("closed" if not peer.recv(1) else "data")
            except ConnectionResetError:
                print(now)
    print(f"{len(by_descriptor)} left", flush=True)


def crc32c(octets):
    """Source: RFC 9260 Appendix A, one bit after another."""
    remainder = 0xFFFFFFFF
    for octet in octets:
        remainder ^= octet
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return struct.pack("<I", ~remainder & 0xFFFFFFFF)


def sctp_packet(source, destination, chunk, value):
    header = struct.pack("!HH4s4x", source, destination, b"tag.")
    body = struct.pack("!BBH", chunk, 0, 4 + len(value)) + value + bytes(-len(value) % 4)
    return header[:8] + crc32c(header + body) + body


def sctp_received(peer, family):
    """Returns sender, ports, chunk and value of the next SCTP packet, or None if its checksum is wrong."""
    packet, sender = peer.recvfrom(65535)
    if family == socket.AF_INET:
        packet = packet[(packet[0] & 15) * 4 :]
    if crc32c(packet[:8] + bytes(4) + packet[12:]) != packet[8:12]:
        return None
    source, destination = struct.unpack("!HH", packet[:4])
    chunk, _, length = struct.unpack("!BBH", packet[12:16])
    return sender[0], source, destination, chunk, packet[16 : 12 + length]


def serve_sctp(port):
    """Answers SCTP chunks over both families, the kernel having no SCTP of its own: each by the one that follows."""
    follows = {0: 0, 1: 2, 10: 11}

    def answer(family):
        peer = socket.socket(family, socket.SOCK_RAW, 132)
        while True:
            seen = sctp_received(peer, family)
            if seen and seen[2] == int(port) and seen[3] in follows:
                sender, source, own, chunk, value = seen
                peer.sendto(sctp_packet(own, source, follows[chunk], value), (sender, 0))

    for family in (socket.AF_INET, socket.AF_INET6):
        threading.Thread(target=answer, args=(family,), daemon=True).start()
    print("listening", flush=True)
    threading.Event().wait()


def sctp(address, port):
    """Opens an association and sends data; prints the chunks that came back whole from that address and port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    peer = socket.socket(family, socket.SOCK_RAW, 132)
    peer.settimeout(REPLY_SECONDS)
    came = []
    for chunk, value in ((1, b"init"), (10, b"cookie"), (0, b"some data"), (0, b"more data")):
        peer.sendto(sctp_packet(40000, int(port), chunk, value), (address, 0))
        try:
            seen = sctp_received(peer, family)
        except TimeoutError:
            break
        if seen and seen[:3] == (address, int(port), 40000) and seen[4] == value:
            came.append(str(seen[3]))
    print(*came)


def noise(address, port, count, seed):
    """Sends datagrams of random octets, and DNS queries cut and bent at random."""
    chance = random.Random(int(seed))
    query = bytes.fromhex("123401000001000000000000") + b"\3ent\3dev\3svc\7cluster\5local\0\0\1\0\1"
    with client_udp(address) as peer:
        for _ in range(int(count)):
            if chance.random() < 0.5:
                data = chance.randbytes(chance.randrange(0, 600))
            else:
                data = bend(chance, query)[: chance.randrange(0, len(query) + 1)]
            peer.sendto(data, (address, int(port)))


def bend(chance, octets):
    bent = bytearray(octets)
    for _ in range(chance.randrange(1, 6)):
        bent[chance.randrange(len(bent))] = chance.randrange(256)
    return bytes(bent)


def next_hop_mac(address):
    with open("/proc/net/arp") as table:
        for row in table:
            fields = row.split()
            if fields[0] == address:
                return bytes.fromhex(fields[3].replace(":", ""))
    raise SystemExit(f"no neighbour {address}")


def frames(device, next_hop, source, destination, count, seed):
    """Sends frames to the destination whose headers lie: bent, cut, or with lengths of their own."""
    chance = random.Random(int(seed))
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((device, 0))
    ethernet = next_hop_mac(next_hop) + raw.getsockname()[4] + b"\x08\x00"
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    for _ in range(int(count)):
        protocol = chance.choice([1, 6, 6, 6, 17, 17, 17, 0, 132])
        body = chance.randbytes(chance.randrange(0, 80))
        if protocol in (6, 17) and len(body) >= 4:
            body = struct.pack("!HH", chance.randrange(1, 65536), 8080) + body[4:]
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + addresses
        total = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + body
        # The destination stays, so that the frame reaches the program; the rest may be anything.
        bent = total if chance.random() < 0.3 else bend(chance, total[:16]) + total[16:]
        raw.send(ethernet + bent[: chance.randrange(20, len(bent) + 1)])


def checksum(octets):
    octets += bytes(len(octets) % 2)
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


PROGRAMS = {
    "serve": serve,
    "serve-dns": serve_dns,
    "soak": soak,
    "udp": udp,
    "echoes": echoes,
    "scattered": scattered,
    "probe": probe,
    "stream": stream,
    "hold": hold,
    "hold-many": hold_many,
    "watch-many": watch_many,
    "serve-sctp": serve_sctp,
    "sctp": sctp,
    "noise": noise,
    "frames": frames,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
