"""Output format of all clients: one line `ok NAME` or `FAIL NAME: reason` per check, and exit code 0 at the end."""

from contextlib import contextmanager


@contextmanager
def check(name):
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"FAIL {name}: {reason}", flush=True)
    else:
        print(f"ok {name}", flush=True)


def equal(got, expected):
    if got != expected:
        raise AssertionError(f"got {got!r}, expected {expected!r}")


def matches(got, pattern):
    if not pattern.fullmatch(got):
        raise AssertionError(f"got {got!r}, expected {pattern.pattern}")
