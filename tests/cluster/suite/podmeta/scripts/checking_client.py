"""Requests the instance ID of its own pod and compares each response with the ID of the pod's UID.

Arguments: requests of each process (0: until the file /stop exists), pause between requests in ms, and for each process
the number of requests of one connection. Prints one JSON object: the sums of all processes.
"""

import collections, hashlib, itertools, json, os, socket, sys, time

ADDRESSES = ["169.254.169.254", "fd00:ec2::254"]
TIMEOUT = 10  # seconds for connect and for each read
UID = os.environ["POD_UID"]
# The same derivation as in metadata/src/identity.rs.
EXPECTED = b"i-" + hashlib.sha256(b"podmeta Instance " + UID.encode()).hexdigest()[:17].encode()
PUT = b"PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 600\r\n\r\n"
GET = b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: %s\r\n\r\n"


class Closed(Exception):
    """The server closed a connection that had served a request. The client may repeat the request (RFC 9112, 9.3.1)."""


class Connection:
    def __init__(self, address, counts):
        self.socket = socket.create_connection((address, 80), TIMEOUT)
        self.served = 0
        self.is_open = True
        counts["connections"] += 1

    def request(self, head):
        """Returns status and body."""
        received = b""
        try:
            self.socket.sendall(head)
            while (end := received.find(b"\r\n\r\n")) < 0:
                received += self.read()
            fields = received[:end].lower()
            start = fields.index(b"content-length:") + len(b"content-length:")
            length = int(fields[start:].split(b"\r\n", 1)[0])
            while len(received) < end + 4 + length:
                received += self.read()
        except (ConnectionError, BrokenPipeError) as error:
            raise Closed if self.served and not received else error
        self.served += 1
        self.is_open = b"connection: close" not in fields
        return int(received[9:12]), received[end + 4 :]

    def read(self):
        data = self.socket.recv(4096)
        if not data:
            raise ConnectionResetError("closed without a response")
        return data


class Client:
    def __init__(self, requests, pause, requests_of_connection):
        self.left = requests or None
        self.pause = pause
        self.requests_of_connection = requests_of_connection
        self.counts = collections.Counter(right=0, wrong=0, failed=0, reopened=0, connections=0)
        self.failures = collections.Counter()

    def run(self):
        for address in itertools.cycle(ADDRESSES):
            try:
                connection = Connection(address, self.counts)
                status, token = connection.request(PUT)
                connection.socket.close()
                if status != 200:
                    raise OSError(f"{status} for a token")
                self.counts["tokens"] += 1
                if not self.use_connection(address, GET % token):
                    return self.counts, self.failures
            except (OSError, ValueError) as error:
                self.counts["failed"] += 1
                self.failures[f"{address}: {error!r}"] += 1
                time.sleep(0.01)
                if self.is_done():
                    return self.counts, self.failures

    def use_connection(self, address, get):
        """Sends the requests of one connection. Returns False after the last request of this client."""
        connection = Connection(address, self.counts)
        for _ in range(self.requests_of_connection):
            try:
                status, body = connection.request(get)
            except Closed:
                self.counts["reopened"] += 1
                connection = Connection(address, self.counts)
                status, body = connection.request(get)
            if status != 200:
                raise OSError(f"{status} for the instance ID")
            self.counts["right" if body == EXPECTED else "wrong"] += 1
            if body != EXPECTED:
                self.failures[f"{UID} got {body[:40]!r}, expected {EXPECTED!r}"] += 1
            if self.left is not None:
                self.left -= 1
            if self.is_done():
                return False
            if self.pause:
                time.sleep(self.pause)
            if not connection.is_open:
                connection = Connection(address, self.counts)
        connection.socket.close()
        return True

    def is_done(self):
        return self.left <= 0 if self.left is not None else os.path.exists("/stop")


def start(client):
    """Runs a client in a process. Returns the file that its result is written to."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writer, "w") as output:
            json.dump(client.run(), output)
        os._exit(0)
    os.close(writer)
    return os.fdopen(reader)


def main():
    requests, pause = int(sys.argv[1]), int(sys.argv[2]) / 1000
    results = [start(Client(requests, pause, int(number))) for number in sys.argv[3:]]
    sums, failures = collections.Counter(), collections.Counter()
    for result in results:
        counts, messages = json.load(result)
        sums.update(counts)
        failures.update(messages)
    print(json.dumps(dict(sums) | {"failures": dict(failures.most_common(10))}))


main()
