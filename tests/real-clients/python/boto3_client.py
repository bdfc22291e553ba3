"""boto3: credentials by its default chain. Role, region and instance ID by botocore's metadata fetchers."""

import re
import sys
from os import environ

import boto3
from botocore.exceptions import NoCredentialsError
from botocore.session import Session
from botocore.utils import (
    IMDSFetcher,
    IMDSRegionProvider,
    InstanceMetadataFetcher,
    InstanceMetadataRegionFetcher,
    resolve_imds_endpoint_mode,
)

from checks import check, equal, matches

# Set by AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6 in the environment.
CONFIG = {"ec2_metadata_service_endpoint_mode": resolve_imds_endpoint_mode(Session())}
ENDPOINTS = {"ipv4": "http://169.254.169.254/", "ipv6": "http://[fd00:ec2::254]/"}


class InstanceIdFetcher(IMDSFetcher):
    def retrieve(self):
        token = self._fetch_metadata_token()
        return self._get_request("latest/meta-data/instance-id", None, token).text


def roleless():
    with check("pod without a role has no credentials"):
        equal(boto3.Session().get_credentials(), None)
        try:
            boto3.client("sts", region_name=environ["REGION"]).get_caller_identity()
        except NoCredentialsError:
            return
        raise AssertionError("the call was sent without credentials")


def full():
    with check("credentials"):
        credentials = boto3.Session().get_credentials()
        equal(credentials.method, "iam-role")
        equal(
            tuple(credentials.get_frozen_credentials())[:3],
            (environ["EC2_ACCESS_KEY_ID"], environ["EC2_SECRET_ACCESS_KEY"], environ["EC2_SESSION_TOKEN"]),
        )
    with check("role"):
        equal(InstanceMetadataFetcher(config=CONFIG).retrieve_iam_role_credentials()["role_name"], environ["EC2_ROLE"])
    with check("region by InstanceMetadataRegionFetcher"):
        equal(InstanceMetadataRegionFetcher(config=CONFIG).retrieve_region(), environ["REGION"])
    with check("region by IMDSRegionProvider"):
        equal(IMDSRegionProvider(Session()).provide(), environ["REGION"])
    with check("instance ID by IMDSFetcher"):
        fetcher = InstanceIdFetcher(config=CONFIG)
        equal(fetcher.get_base_url(), ENDPOINTS[sys.argv[1]])
        matches(fetcher.retrieve(), re.compile("i-[0-9a-f]{17}"))


roleless() if sys.argv[1] == "roleless" else full()
