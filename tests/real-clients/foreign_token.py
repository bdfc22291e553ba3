"""A token minted as one pod, presented as another. `mint FILE` and `own FILE` run as the first pod, `foreign FILE` as the other."""

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


def ask(url, method="GET", **headers):
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def mint(cloud):
    service, header = SERVICES[cloud]
    status, token = ask(f"{service}/api/token", "PUT", **{f"{header}-ttl-seconds": "600"})
    equal(status, 200)
    return token


def present(cloud, token):
    service, header = SERVICES[cloud]
    return ask(f"{service}/meta-data/instance-id", **{header: token})[0]


step, file = sys.argv[1], Path(sys.argv[2])
tokens = {} if step == "mint" else json.loads(file.read_text())
for cloud in SERVICES:
    if step == "mint":
        with check(f"{cloud}: a token is given"):
            tokens[cloud] = mint(cloud)
    elif step == "own":
        with check(f"{cloud}: it opens its own pod in a later run"):
            equal(present(cloud, tokens[cloud]), 200)
    else:
        with check(f"{cloud}: another pod refuses it"):
            equal(present(cloud, mint(cloud)), 200)
            equal(present(cloud, tokens[cloud]), 401)
if step == "mint":
    file.write_text(json.dumps(tokens))
