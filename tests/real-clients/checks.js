// The convention of every client here: one line `ok NAME` or `FAIL NAME: why` for each check, exit code 0 at the end.
"use strict";

// Node ends with this code when a promise that never settles is all that is left.
process.exitCode = 1;

async function check(name, probe) {
  try {
    await probe();
    console.log(`ok ${name}`);
  } catch (error) {
    console.log(`FAIL ${name}: ${String(error).replace(/\s+/g, " ")}`);
  }
}

async function run(checks) {
  await checks();
  process.exitCode = 0;
}

module.exports = { check, run };
