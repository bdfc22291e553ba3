"""A token issued to one pod and used by another.

`issue FILE` and `use-as-same-pod FILE` run as the first pod, `use-as-other-pod FILE` as the second.
"""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

from checks import check, equal

SERVICES = {
    "EC2": ("http://169.254.169.254/latest", "X-aws-ec2-metadata-token"),
    "ECS": ("http://100.100.100.200/latest", "X-aliyun-ecs-metadata-token"),
}


def send(url, method="GET", **headers):
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def issue(cloud):
    service, header = SERVICES[cloud]
    status, token = send(f"{service}/api/token", "PUT", **{f"{header}-ttl-seconds": "600"})
    equal(status, 200)
    return token


def status_with(cloud, token):
    service, header = SERVICES[cloud]
    return send(f"{service}/meta-data/instance-id", **{header: token})[0]


step, file = sys.argv[1], Path(sys.argv[2])
tokens = {} if step == "issue" else json.loads(file.read_text())
for cloud in SERVICES:
    if step == "issue":
        with check(f"{cloud}: a token is issued"):
            tokens[cloud] = issue(cloud)
    elif step == "use-as-same-pod":
        with check(f"{cloud}: the token is accepted from the same pod in a later run"):
            equal(status_with(cloud, tokens[cloud]), 200)
    else:
        with check(f"{cloud}: the token is rejected from another pod"):
            equal(status_with(cloud, issue(cloud)), 200)
            equal(status_with(cloud, tokens[cloud]), 401)
if step == "issue":
    file.write_text(json.dumps(tokens))
