"""Sends frames into one device and says what comes out of two, for the comparison with the kernel.

usage: frames.py CLIENT_DEVICE POD_DEVICE LAST_ADDRESS

Reads frames as hexadecimal lines; at an empty line it sends them all by the client's device, the last one being a
datagram to LAST_ADDRESS. What is forwarded keeps its order on one processor, so when that datagram comes out at the
pods' device all else has. Then it prints each IPv4 frame that came, as the device's side and hexadecimal, and an
empty line.
"""

import os
import socket
import sys

ETH_P_ALL, ETH_P_IP = 0x0003, 0x0800


def opened(device):
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    packet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    packet.bind((device, 0))
    return packet


def received(packet):
    """What came by now, without what was sent."""
    frames = []
    while True:
        try:
            frame, (_, protocol, kind, *_) = packet.recvfrom(65535, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return frames
        if kind != socket.PACKET_OUTGOING and protocol == ETH_P_IP:
            frames.append(frame)


def main():
    client, pods = opened(sys.argv[1]), opened(sys.argv[2])
    last = socket.inet_aton(sys.argv[3])
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pods.settimeout(10)
    batch = []
    for line in sys.stdin:
        if line.strip():
            batch.append(bytes.fromhex(line))
            continue
        for frame in batch:
            client.send(frame)
        batch, came = [], []
        while True:
            frame, (_, protocol, kind, *_) = pods.recvfrom(65535)
            if kind == socket.PACKET_OUTGOING or protocol != ETH_P_IP:
                continue
            if frame[30:34] == last:
                break
            came.append(frame)
        for frame in received(client):
            print("client", frame.hex())
        for frame in came:
            print("pods", frame.hex())
        print(flush=True)


main()
