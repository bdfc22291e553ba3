"""awscrt (AWS Common Runtime): credentials by the default chain. It keeps a session token in 64 bytes."""

import sys
from os import environ

from awscrt.auth import AwsCredentialsProvider
from awscrt.exceptions import AwsCrtError

from checks import check, equal


def credentials():
    return AwsCredentialsProvider.new_default_chain().get_credentials().result(timeout=30)


def roleless():
    with check("pod without a role has no credentials"):
        try:
            got = credentials()
        except AwsCrtError:
            return
        raise AssertionError(f"got {got}")


def full():
    with check("credentials"):
        got = credentials()
        equal(got.access_key_id, environ["EC2_ACCESS_KEY_ID"])
        equal(got.secret_access_key, environ["EC2_SECRET_ACCESS_KEY"])
        equal(got.session_token, environ["EC2_SESSION_TOKEN"])


roleless() if sys.argv[1] == "roleless" else full()
