"""Starts two servers of moto and checks the sessions that podmeta creates with them. One checks signatures, the other does not.

Usage: check.py MOTO_SERVER SESSION
"""

import json
import os
import socket
import subprocess
import sys
import time

import boto3
from botocore.exceptions import ClientError, EndpointConnectionError

ACCOUNT = "123456789012"
DEADLINE_SECONDS = 60
SETUP_ACTIONS = 4
results = []


def check(name, passed, detail=""):
    results.append(passed)
    print(f"ok {name}" if passed else f"FAIL {name}: {detail}")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Moto:
    """A server that checks signatures after `unchecked_actions`, or never."""

    def __init__(self, program, unchecked_actions=None):
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        env = dict(os.environ)
        if unchecked_actions is not None:
            env["INITIAL_NO_AUTH_ACTION_COUNT"] = str(unchecked_actions)
        command = [program, "-H", "127.0.0.1", "-p", str(port)]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit("FAIL moto does not start\n0 passed, 1 failed")
            time.sleep(0.1)

    def client(self, service, key="setup", secret="setup", token=None):
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
        )

    def identity(self, session):
        keys = (session["accessKeyId"], session["secretAccessKey"], session["sessionToken"])
        return self.client("sts", *keys).get_caller_identity()["Arn"]


def create_role(iam):
    statement = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    return iam.create_role(RoleName="web", AssumeRolePolicyDocument=policy)["Role"]["Arn"]


def create_operator(iam):
    """Returns the keys of a user that may assume roles. Takes three actions."""
    iam.create_user(UserName="operator")
    statement = {"Effect": "Allow", "Action": "sts:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName="operator", PolicyName="sts", PolicyDocument=policy)
    return iam.create_access_key(UserName="operator")["AccessKey"]


def sessions(program, moto, role, key, secret):
    env = {"PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    command = [program, f"--aws-sts-endpoint={moto.url}", f"--role={role}", "--token=a.b.c"]
    output = subprocess.run(command, env=env, check=True, capture_output=True, timeout=DEADLINE_SECONDS).stdout
    return json.loads(output)


def main(moto_server, session_program):
    checking, open_server = Moto(moto_server, SETUP_ACTIONS), Moto(moto_server)
    try:
        role = create_role(open_server.client("iam"))
        found = sessions(session_program, open_server, role, "any", "any")
        web_identity = found["awsWebIdentity"]
        check("awsWebIdentity returns a session", "accessKeyId" in web_identity, web_identity)
        arn = open_server.identity(web_identity)
        check("get-caller-identity shows the role and the pod", ":assumed-role/web/shop.web-1." in arn, arn)

        iam = checking.client("iam")
        role, operator = create_role(iam), create_operator(iam)
        try:
            checking.client("sts").get_caller_identity()
            check("moto checks signatures", False, "it accepts any key")
        except ClientError as error:
            check("moto checks signatures", error.response["Error"]["Code"] == "InvalidClientTokenId", error)
        keys = operator["AccessKeyId"], operator["SecretAccessKey"]
        assumed = sessions(session_program, checking, role, *keys)["awsAssumeRole"]
        check("awsAssumeRole with valid keys returns a session", "accessKeyId" in assumed, assumed)
        denied = sessions(session_program, checking, role, keys[0], "wrong")["awsAssumeRole"]
        # moto's error document does not have the form of AWS STS, so only its status is compared.
        check("awsAssumeRole with a wrong key fails with 403", "(403)" in denied.get("error", ""), denied)
    finally:
        for moto in (checking, open_server):
            moto.process.kill()
            moto.process.wait()


try:
    main(*sys.argv[1:])
except (ClientError, EndpointConnectionError, KeyError, subprocess.SubprocessError) as error:
    check("moto", False, repr(error))
print(f"{results.count(True)} passed, {results.count(False)} failed")
sys.exit(results.count(False) > 0)
