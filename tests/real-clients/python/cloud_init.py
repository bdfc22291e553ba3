"""cloud-init from the Debian package, unmodified: the crawls of DataSourceEc2 and DataSourceAliYun.

Arguments: data source (ec2, aliyun) and httpTokens of the pod (required, optional).
"""

import logging
import re
import sys
import tempfile
from os import environ

from cloudinit import version
from cloudinit.helpers import Paths
from cloudinit.sources.DataSourceAliYun import DataSourceAliYun
from cloudinit.sources.DataSourceEc2 import DataSourceEc2

from checks import check, equal, matches

USER_DATA = b"#!/bin/sh\necho hello\n"
# DataSourceAliYun sends tokens since 23.1.
ALIYUN_SENDS_TOKENS = tuple(int(part) for part in version.version_string().split(".")[:2]) >= (23, 1)


class LogRecorder(logging.Handler):
    """Records the requested URLs, the retried URLs and the warnings of cloud-init's log."""

    def __init__(self):
        super().__init__()
        self.opened, self.retried, self.warnings = [], [], []

    def emit(self, record):
        line = record.getMessage()
        opened = re.match(r"\[(\d+)/\w+\] open '([^']+)'", line)
        if opened:
            self.opened.append(opened[2])
            if opened[1] != "0":
                self.retried.append(opened[2])
        if record.levelno >= logging.WARNING:
            self.warnings.append(line)


def crawl(source, cloud):
    """Returns the data source and whether its crawl succeeded. Timeouts are set in the configuration, as in an image."""
    timeouts = {"max_wait": 1, "timeout": 2, "retries": 0}
    with tempfile.TemporaryDirectory() as directory:
        paths = Paths({"cloud_dir": directory, "run_dir": directory})
        instance = source({"datasource": {source.dsname: timeouts}}, None, paths)
    instance._cloud_name = cloud  # On a real instance, read from DMI.
    return instance, instance._get_data()


def ec2(log):
    source, complete = crawl(DataSourceEc2, "aws")
    with check("crawls the whole tree"):
        if not complete or not source.metadata:
            raise AssertionError(f"dropped all metadata, retried {log.retried[:1]}: {log.warnings}")
        equal(source._crawled_metadata["_metadata_api_version"], "2021-03-23")
        equal(log.retried, [])
    with check("instance ID"):
        matches(source.metadata["instance-id"], re.compile("i-[0-9a-f]{17}"))
        equal(source.get_instance_id(), source.metadata["instance-id"])
    with check("region and zone"):
        equal((source.region, source.availability_zone), (environ["REGION"], environ["ZONE"]))
    with check("network interfaces"):
        mac = source.metadata["mac"]
        interface = source.metadata["network"]["interfaces"]["macs"][mac]
        equal((interface["mac"], interface["device-number"]), (mac, "0"))
        equal(interface["local-ipv4s"], source.metadata["local-ipv4"])
    with check("public keys"):
        equal(source.get_public_ssh_keys(), [environ["PUBLIC_KEY"]])
    with check("user-data"):
        equal(source.userdata_raw, USER_DATA)
    with check("instance-identity document"):
        equal(source.identity["accountId"], environ["ACCOUNT"])
        equal(source.identity["instanceId"], source.metadata["instance-id"])
        equal(source.identity["privateIp"], source.metadata["local-ipv4"])
    with check("does not request credentials"):
        equal(source.metadata["iam"]["info"]["Code"], "Success")
        assert_no_credentials(source, log)


def aliyun(log, tokens):
    source, complete = crawl(DataSourceAliYun, "aliyun")
    if tokens == "required" and not ALIYUN_SENDS_TOKENS:
        with check("has no metadata without a token"):
            equal((complete, source.metadata, source.userdata_raw), (False, {}, None))
            equal(set(log.opened), {"http://100.100.100.200/2016-01-01/meta-data/instance-id"})
        return
    with check("crawls the whole tree"):
        if not complete or not source.metadata:
            raise AssertionError(f"dropped all metadata, retried {log.retried[:1]}: {log.warnings}")
        equal(log.retried, [])
    with check("instance ID"):
        matches(source.get_instance_id(), re.compile("i-[0-9a-z]{20}"))
    with check("hostname"):
        hostname = source.get_hostname()
        equal((hostname.hostname, hostname.is_default), (source.metadata["hostname"], False))
    with check("public keys"):
        equal(source.get_public_ssh_keys(), [environ["PUBLIC_KEY"]])
    with check("user-data"):
        equal(source.userdata_raw, USER_DATA)
    with check("does not request credentials"):
        # Since 25.1 it requests the tree as one document first. The document has no credentials.
        equal(any(url.endswith(("/meta-data/ram/", "/meta-data/all")) for url in log.opened), True)
        assert_no_credentials(source, log)


def assert_no_credentials(source, log):
    equal([url for url in log.opened if "security-credentials" in url], [])
    secrets = [name for name in environ if re.fullmatch("EC[2S]_.*(KEY_ID|KEY|SECRET|TOKEN)", name)]
    equal([name for name in secrets if environ[name] in repr(source._crawled_metadata)], [])


LOG = LogRecorder()
logging.getLogger().addHandler(LOG)
logging.getLogger().setLevel(logging.DEBUG)
ec2(LOG) if sys.argv[1] == "ec2" else aliyun(LOG, sys.argv[2])
