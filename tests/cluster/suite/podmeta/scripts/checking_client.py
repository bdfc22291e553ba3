"""Requests the instance ID of its own pod at each service address, and compares each response with the ID of the pod's UID.

The argument is a JSON object, see `Load::command`. Prints one JSON object, the results of all processes: see `CheckCounts`.
A process ends when its `end` is reached, or when the file /stop exists. With `recovery`, it then continues until `quiet`
seconds have passed without a failure, at most `limit` seconds.
"""

import collections, errno, hashlib, itertools, json, os, socket, sys, time

TIMEOUT = 10  # seconds for connect and for each read
UID = os.environ["POD_UID"]
DIGEST = hashlib.sha256(b"podmeta Instance " + UID.encode())
# The same derivations as in metadata/src/identity.rs.
EC2_ID = b"i-" + DIGEST.hexdigest()[:17].encode()
ECS_ID = b"i-" + bytes(b"0123456789abcdefghijklmnopqrstuvwxyz"[byte % 36] for byte in DIGEST.digest()[:20])
SERVICES = [
    ("169.254.169.254", b"X-aws-ec2-metadata-token", EC2_ID),
    ("fd00:ec2::254", b"X-aws-ec2-metadata-token", EC2_ID),
    ("100.100.100.200", b"X-aliyun-ecs-metadata-token", ECS_ID),
]
PUT = b"PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n%s-ttl-seconds: 21600\r\n\r\n"
GET = b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\n%s: %s\r\n\r\n"


class Closed(Exception):
    """The server closed a connection that had served a request. The client may repeat the request (RFC 9112, 9.3.1)."""


class StatusError(OSError):
    """A response with an error status."""


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


def kind_of(error):
    """Returns the kind of a failure."""
    if isinstance(error, StatusError):
        return str(error.args[0])
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, (ConnectionError, Closed)):
        return "closed"
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES):
        return "unreachable"
    return "other"


class Client:
    def __init__(self, settings, requests_of_connection):
        self.requests_of_connection = requests_of_connection
        self.pause = settings["pause"] / 1000
        self.stub_body = settings["stub_body"].encode()
        self.keep_tokens = settings["keep_tokens"]
        end = settings["end"]
        self.left, self.recovery = end.get("requests"), end.get("recovery")
        self.started = self.last_right = self.last_failure = time.monotonic()
        self.deadline = self.started + end["seconds"] if "seconds" in end else None
        self.stopped = None  # time at which /stop was found
        self.tokens = {}
        self.counts = collections.Counter(right=0, wrong=0, stub=0, failed=0, reopened=0, connections=0, tokens=0)
        self.kinds, self.failures = collections.Counter(), collections.Counter()
        self.outage = 0.0

    def run(self):
        for service in itertools.cycle(SERVICES):
            try:
                self.use_connection(service)
            except (OSError, ValueError, Closed) as error:
                self.record_failure(service, error)
                time.sleep(0.01)
            if self.is_done():
                return self.result()

    def result(self):
        self.outage = max(self.outage, time.monotonic() - self.last_right)
        recovery = max(0.0, self.last_failure - self.stopped) if self.stopped else 0.0
        is_quiet = self.recovery is None or self.is_quiet()
        return {
            "counts": self.counts, "kinds": self.kinds, "failures": dict(self.failures.most_common(10)),
            "outage": self.outage, "recovery": recovery, "unrecovered": int(not is_quiet),
        }

    def record_failure(self, service, error):
        self.counts["failed"] += 1
        self.kinds[kind_of(error)] += 1
        self.failures[f"{service[0]}: {error!r}"] += 1
        self.last_failure = time.monotonic()

    def record_response(self, body, expected):
        """Records the body of an instance ID, or a body in the place of a token."""
        if body == expected:
            now = time.monotonic()
            self.outage = max(self.outage, now - self.last_right)
            self.last_right = now
            self.counts["right"] += 1
            return
        self.counts["wrong"] += 1
        self.counts["stub"] += body == self.stub_body
        self.failures[f"{UID} got {body[:40]!r}, expected {expected!r}"] += 1

    def token(self, service):
        """Returns the kept token of a service, or requests one with a new connection."""
        address, header, _ = service
        if address in self.tokens:
            return self.tokens[address]
        connection = Connection(address, self.counts)
        status, token = connection.request(PUT % header)
        connection.socket.close()
        if token == self.stub_body:
            self.record_response(token, b"a token")
        if status != 200:
            raise StatusError(status, "for a token")
        self.counts["tokens"] += 1
        if self.keep_tokens:
            self.tokens[address] = token
        return token

    def use_connection(self, service):
        """Sends the requests of one connection."""
        address, header, expected = service
        get = GET % (header, self.token(service))
        connection = Connection(address, self.counts)
        for _ in range(self.requests_of_connection):
            try:
                status, body = connection.request(get)
            except Closed:
                self.counts["reopened"] += 1
                connection = Connection(address, self.counts)
                status, body = connection.request(get)
            if status == 401:
                self.tokens.pop(address, None)
            if status != 200:
                raise StatusError(status, "for the instance ID")
            self.record_response(body, expected)
            if self.left is not None:
                self.left -= 1
            if self.is_done():
                return
            if self.pause:
                time.sleep(self.pause)
            if not connection.is_open:
                connection = Connection(address, self.counts)
        connection.socket.close()

    def is_done(self):
        if self.left is not None and self.left <= 0:
            return True
        now = time.monotonic()
        if self.deadline and now >= self.deadline:
            return True
        if self.stopped is None and os.path.exists("/stop"):
            self.stopped = now
        if self.stopped is None or self.recovery is None:
            return self.stopped is not None
        return self.is_quiet() or now - self.stopped >= self.recovery["limit"]

    def is_quiet(self):
        """True if requests succeeded for the quiet time since /stop was found."""
        quiet_since = max(self.last_failure, self.stopped or self.last_failure)
        return time.monotonic() - quiet_since >= self.recovery["quiet"]


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
    settings = json.loads(sys.argv[1])
    started = [start(Client(settings, number)) for number in settings["requests_of_connections"]]
    results = [json.load(file) for file in started]
    counts, kinds, failures = collections.Counter(), collections.Counter(), collections.Counter()
    for result in results:
        counts.update(result["counts"])
        kinds.update(result["kinds"])
        failures.update(result["failures"])
    summary = {key: max(result[key] for result in results) for key in ("outage", "recovery")}
    summary["unrecovered"] = sum(result["unrecovered"] for result in results)
    print(json.dumps(dict(counts) | summary | {"kinds": kinds, "failures": dict(failures.most_common(10))}))


main()
