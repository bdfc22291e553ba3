"""The convention of every client here: one line `ok NAME` or `FAIL NAME: why` for each check, exit code 0 at the end."""

from contextlib import contextmanager


@contextmanager
def check(name):
    try:
        yield
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"FAIL {name}: {why}", flush=True)
    else:
        print(f"ok {name}", flush=True)


def equal(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def matches(got, pattern):
    if not pattern.fullmatch(got):
        raise AssertionError(f"got {got!r}, wanted {pattern.pattern}")
