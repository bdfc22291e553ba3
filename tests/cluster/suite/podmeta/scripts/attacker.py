"""Sends packets with false addresses until the file /stop exists. Creates /started after the first round, and prints the number of
packets.

Arguments: `announce` or `flood`; then the neighbour's addresses: IPv4 and IPv6 of its link, IPv4 and IPv6 of its eth0.
"""

import itertools, os, random, socket, struct, sys, time

SERVICES = ["169.254.169.254", "100.100.100.200", "fd00:ec2::254"]
# MAC address of the agent end of each link (link/src/pod_link.rs).
AGENT_MAC = bytes.fromhex("021d01000000")
ALL_NODES = "ff02::1"
LINK_LOCAL = "fe80::bad"
LIFETIME = 60  # seconds. A router lifetime of 0 leaves the default routes of other pods.


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def packed(address):
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def ethernet(destination, source, protocol, payload):
    return destination + source + struct.pack("!H", protocol) + payload


def ipv6(source, destination, protocol, hop_limit, payload, checksum_offset):
    pseudo_header = packed(source) + packed(destination) + struct.pack("!II", len(payload), protocol)
    sum_bytes = struct.pack("!H", checksum(pseudo_header + payload))
    payload = payload[:checksum_offset] + sum_bytes + payload[checksum_offset + 2 :]
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hop_limit) + packed(source) + packed(destination) + payload


def arp(mac, address):
    """Returns an announcement of an IPv4 address as request and as reply (RFC 826)."""
    for operation in (1, 2):
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac + packed(address)
        yield ethernet(b"\xff" * 6, mac, 0x0806, body + b"\xff" * 6 + packed(address))


def to_all_nodes(mac, message):
    """Returns an ICMPv6 message with hop limit 255, which neighbour discovery requires."""
    return ethernet(bytes.fromhex("333300000001"), mac, 0x86DD, ipv6(LINK_LOCAL, ALL_NODES, 58, 255, message, 2))


def neighbour_advertisement(mac, address):
    """Overrides the MAC address of an IPv6 address (RFC 4861, 4.4)."""
    return to_all_nodes(mac, struct.pack("!BBHI", 136, 0, 0, 0xA0000000) + packed(address) + b"\x02\x01" + mac)


def router_advertisement(mac, prefix, length):
    """Names a prefix as on-link, for which receivers add a route by their interface (RFC 4861, 4.2 and 4.6.2)."""
    option = struct.pack("!BBBBIII", 3, 4, length, 0xC0, LIFETIME, LIFETIME, 0) + packed(prefix)
    return to_all_nodes(mac, struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 0, 0, 0) + option)


def syn(source, destination):
    """Returns a SYN from a random port."""
    ports = struct.pack("!HH", random.randrange(1024, 65536), 80)
    segment = ports + struct.pack("!IIHHHH", random.getrandbits(32), 0, 0x5002, 65535, 0, 0)
    if ":" in source:
        return ipv6(source, destination, 6, 64, segment, 16)
    pseudo_header = packed(source) + packed(destination) + struct.pack("!HH", 6, len(segment))
    segment = segment[:16] + struct.pack("!H", checksum(pseudo_header + segment)) + segment[18:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), random.getrandbits(16), 0, 64, 6, 0)
    header += packed(source) + packed(destination)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + segment


def announcements(mac, addresses):
    """Claims the service addresses and those of the neighbour for the MAC address of an interface."""
    for address in SERVICES + addresses:
        if ":" in address:
            yield neighbour_advertisement(mac, address)
            yield router_advertisement(mac, address, 128)
        else:
            yield from arp(mac, address)


def flood(mac, addresses):
    """Opens connections from own and false addresses of links, and acknowledges none."""
    own = [line.split()[3].split("/")[0] for line in os.popen("ip -o addr show dev imds0 scope global")]
    for destination in SERVICES:
        is_ipv6 = ":" in destination
        sources = [address for address in own + addresses if (":" in address) == is_ipv6]
        number = random.getrandbits(12)
        sources.append(f"fda9:fe:a9fe::a9fe:f{number:03x}" if is_ipv6 else f"169.254.{240 + number // 256}.{number % 256}")
        for source in sources:
            for _ in range(64):
                yield ethernet(AGENT_MAC, mac, 0x86DD if is_ipv6 else 0x0800, syn(source, destination))


def main():
    kind, addresses = sys.argv[1], sys.argv[2:]
    packets, interfaces = {"announce": (announcements, ["imds0", "eth0"]), "flood": (flood, ["imds0"])}[kind]
    sockets = []
    for interface in interfaces:
        interface_socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        interface_socket.bind((interface, 0))
        sockets.append((interface_socket, interface_socket.getsockname()[4]))
    sent = 0
    for round_number in itertools.count():
        for interface_socket, mac in sockets:
            for packet in packets(mac, addresses):
                interface_socket.send(packet)
                sent += 1
        if round_number == 0:
            open("/started", "w").close()
        if os.path.exists("/stop"):
            print(sent)
            return
        time.sleep(0.01)


main()
