"""alibabacloud-credentials (Python): credentials. The SDK does not read the region and instance ID; plain requests do."""

import re
import sys
from os import environ

import requests
from alibabacloud_credentials.client import Client
from alibabacloud_credentials.exceptions import CredentialException
from alibabacloud_credentials.models import Config

from checks import check, equal, matches

SERVICE = "http://100.100.100.200/latest"


def credentials(**options):
    return Client(Config(type="ecs_ram_role", **options)).get_credential()


def metadata(path):
    ttl = {"X-aliyun-ecs-metadata-token-ttl-seconds": "60"}
    token = requests.put(f"{SERVICE}/api/token", headers=ttl, timeout=5)
    token.raise_for_status()
    response = requests.get(f"{SERVICE}/{path}", headers={"X-aliyun-ecs-metadata-token": token.text}, timeout=5)
    response.raise_for_status()
    return response.text


def roleless():
    for name, options in [("", {}), (", IMDSv1 disabled", {"disable_imds_v1": True})]:
        with check(f"pod without a role has no credentials{name}"):
            try:
                got = credentials(**options)
            except CredentialException as error:
                # With IMDSv1 allowed, the SDK retries without a token and reports the status of the retry: 403.
                equal(error.message[-3:], "404" if options else "403")
            else:
                raise AssertionError(f"got {got}")


def full():
    role = {"role_name": environ["ECS_ROLE"]}
    for name, options in [
        ("role discovered", {}),
        ("role given", role),
        ("role discovered, IMDSv1 disabled", {"disable_imds_v1": True}),
        ("role given, IMDSv1 disabled", {"disable_imds_v1": True, **role}),
    ]:
        with check(f"credentials, {name}"):
            got = credentials(**options)
            equal(got.access_key_id, environ["ECS_ACCESS_KEY_ID"])
            equal(got.access_key_secret, environ["ECS_ACCESS_KEY_SECRET"])
            equal(got.security_token, environ["ECS_SECURITY_TOKEN"])
    with check("region and zone by plain requests"):
        equal(metadata("meta-data/region-id"), environ["REGION"])
        equal(metadata("meta-data/zone-id"), environ["ZONE"])
    with check("instance ID by plain requests"):
        matches(metadata("meta-data/instance-id"), re.compile("i-[0-9a-z]{20}"))


roleless() if sys.argv[1] == "roleless" else full()
