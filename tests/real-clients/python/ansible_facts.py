"""Ansible: the facts of the module amazon.aws.ec2_metadata_facts, run with the `ansible` command next to this Python."""

import json
import re
import subprocess
import sys
from os import environ
from pathlib import Path

from checks import check, equal, matches

COMMAND = [Path(sys.executable).with_name("ansible"), "localhost", "-c", "local", "-m", "amazon.aws.ec2_metadata_facts"]


def facts():
    result = subprocess.run(
        [*COMMAND, "-e", f"ansible_python_interpreter={sys.executable}"],
        env={**environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "false"},
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        raise AssertionError(f"exit code {result.returncode}: {result.stdout} {result.stderr}")
    return json.loads(result.stdout.partition("=>")[2])["ansible_facts"]


def roleless():
    with check("facts of a pod without a role"):
        got = facts()
        matches(got["ansible_ec2_instance_id"], re.compile("i-[0-9a-f]{17}"))
        equal([name for name in got if "_iam_" in name], [])


def full():
    got = {}
    with check("facts"):
        got = facts()
        matches(got["ansible_ec2_instance_id"], re.compile("i-[0-9a-f]{17}"))
        equal(got["ansible_ec2_placement_availability_zone"], environ["ZONE"])
    with check("identity document"):
        equal(got["ansible_ec2_placement_region"], environ["REGION"])
        equal(got["ansible_ec2_instance_identity_document_accountid"], environ["ACCOUNT"])
    with check("role and credentials"):
        role = environ["EC2_ROLE"].replace("-", "_")
        equal(got["ansible_ec2_iam_instance_profile_role"], environ["EC2_ROLE"])
        equal(
            got[f"ansible_ec2_iam_security_credentials_{role}_accesskeyid"],
            environ["EC2_ACCESS_KEY_ID"],
        )
    with check("user data and public key"):
        equal(got["ansible_ec2_user_data"], "#!/bin/sh\necho hello\n")
        equal(got["ansible_ec2_public_key"].strip(), environ["PUBLIC_KEY"])


roleless() if sys.argv[1] == "roleless" else full()
