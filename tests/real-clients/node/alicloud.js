// @alicloud/credentials (JavaScript): credentials. The SDK does not read the region and instance ID; plain requests do.
"use strict";

const assert = require("node:assert/strict");
const { default: Credential, Config } = require("@alicloud/credentials");
const { check, run } = require("./checks");

const { env } = process;
const SERVICE = "http://100.100.100.200/latest";

async function credentials(options) {
  const got = await new Credential(new Config({ type: "ecs_ram_role", ...options })).getCredential();
  assert.equal(got.accessKeyId, env.ECS_ACCESS_KEY_ID);
  assert.equal(got.accessKeySecret, env.ECS_ACCESS_KEY_SECRET);
  assert.equal(got.securityToken, env.ECS_SECURITY_TOKEN);
}

async function send(path, options) {
  const response = await fetch(`${SERVICE}/${path}`, { signal: AbortSignal.timeout(5000), ...options });
  assert.equal(response.status, 200, `${path} returned ${response.status}`);
  return response.text();
}

async function metadata(path) {
  const token = await send("api/token", { method: "PUT", headers: { "X-aliyun-ecs-metadata-token-ttl-seconds": "60" } });
  return send(path, { headers: { "X-aliyun-ecs-metadata-token": token } });
}

async function roleless() {
  // With IMDSv1 allowed, the SDK retries without a token and reports the status of the retry: 403.
  await check("pod without a role has no credentials", () => assert.rejects(() => credentials({}), /403/));
  await check("pod without a role has no credentials, IMDSv1 disabled", () =>
    assert.rejects(() => credentials({ disableIMDSv1: true }), /404/));
}

async function full() {
  const roleName = env.ECS_ROLE;
  await check("credentials, role discovered", () => credentials({}));
  await check("credentials, role given", () => credentials({ roleName }));
  await check("credentials, role discovered, IMDSv1 disabled", () => credentials({ disableIMDSv1: true }));
  await check("credentials, role given, IMDSv1 disabled", () => credentials({ disableIMDSv1: true, roleName }));
  await check("region and zone by plain requests", async () => {
    assert.equal(await metadata("meta-data/region-id"), env.REGION);
    assert.equal(await metadata("meta-data/zone-id"), env.ZONE);
  });
  await check("instance ID by plain requests", async () =>
    assert.match(await metadata("meta-data/instance-id"), /^i-[0-9a-z]{20}$/));
}

run(process.argv[2] === "roleless" ? roleless : full);
