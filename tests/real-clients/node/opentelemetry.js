// OpenTelemetry: resource detectors of EC2 and Alibaba Cloud ECS. The detector of Alibaba Cloud sends no session token.
"use strict";

const assert = require("node:assert/strict");
const { awsEc2Detector } = require("@opentelemetry/resource-detector-aws");
const { alibabaCloudEcsDetector } = require("@opentelemetry/resource-detector-alibaba-cloud");
const { detectResources } = require("@opentelemetry/resources");
const { check, run } = require("./checks");

const { env } = process;

async function detect(detector) {
  const resource = detectResources({ detectors: [detector] });
  await resource.waitForAsyncAttributes();
  return resource.attributes;
}

async function ec2() {
  await check("attributes", async () => {
    const got = await detect(awsEc2Detector);
    assert.equal(got["cloud.provider"], "aws");
    assert.equal(got["cloud.platform"], "aws_ec2");
    assert.equal(got["cloud.account.id"], env.ACCOUNT);
    assert.equal(got["cloud.region"], env.REGION);
    assert.equal(got["cloud.availability_zone"], env.ZONE);
    assert.match(got["host.id"], /^i-[0-9a-f]{17}$/);
    assert.equal(got["host.type"], "m7i.large");
    assert.ok(got["host.name"], "host.name is missing");
  });
}

async function ecs() {
  await check("attributes", async () => {
    const got = await detect(alibabaCloudEcsDetector);
    assert.equal(got["cloud.provider"], "alibaba_cloud");
    assert.equal(got["cloud.platform"], "alibaba_cloud_ecs");
    assert.equal(got["cloud.account.id"], env.ACCOUNT);
    assert.equal(got["cloud.region"], env.REGION);
    assert.equal(got["cloud.availability_zone"], env.ZONE);
    assert.match(got["host.id"], /^i-[0-9a-z]{20}$/);
    assert.equal(got["host.type"], "m7i.large");
    assert.ok(got["host.name"], "host.name is missing");
  });
}

async function ecsTokensRequired() {
  await check("no attributes if tokens are required", async () => {
    const got = await detect(alibabaCloudEcsDetector);
    assert.equal(got["cloud.provider"], undefined);
  });
}

run({ ec2, ecs, "ecs-tokens-required": ecsTokensRequired }[process.argv[2]]);
