// AWS SDK for JavaScript v3: credentials by fromInstanceMetadata. Region, instance ID and role by MetadataService.
"use strict";

const assert = require("node:assert/strict");
const { fromInstanceMetadata } = require("@aws-sdk/credential-providers");
const { MetadataService } = require("@aws-sdk/ec2-metadata-service");
const { check, run } = require("./checks");

const { env } = process;

async function credentials(options) {
  const got = await fromInstanceMetadata(options)();
  assert.equal(got.accessKeyId, env.EC2_ACCESS_KEY_ID);
  assert.equal(got.secretAccessKey, env.EC2_SECRET_ACCESS_KEY);
  assert.equal(got.sessionToken, env.EC2_SESSION_TOKEN);
  assert.ok(got.expiration > new Date(), `expired: ${got.expiration}`);
}

async function roleless() {
  for (const ec2MetadataV1Disabled of [false, true]) {
    await check(`pod without a role has no credentials${ec2MetadataV1Disabled ? ", IMDSv1 disabled" : ""}`, () =>
      assert.rejects(() => credentials({ ec2MetadataV1Disabled }), { statusCode: 404 }));
  }
}

async function full() {
  await check("credentials", () => credentials({}));
  await check("credentials, IMDSv1 disabled", () => credentials({ ec2MetadataV1Disabled: true }));

  const service = new MetadataService({ ec2MetadataV1Disabled: true, httpOptions: { timeout: 1000 } });
  await check("region", async () =>
    assert.equal(await service.request("/latest/meta-data/placement/region", {}), env.REGION));
  await check("instance ID", async () =>
    assert.match(await service.request("/latest/meta-data/instance-id", {}), /^i-[0-9a-f]{17}$/));
  await check("role", async () =>
    assert.equal(await service.request("/latest/meta-data/iam/security-credentials/", {}), env.EC2_ROLE));
}

run(process.argv[2] === "roleless" ? roleless : full);
