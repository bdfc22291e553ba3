// Output format of all clients: one line `ok NAME` or `FAIL NAME: reason` per check, and exit code 0 at the end.
"use strict";

// Exit code of Node.js if only promises that never settle are left.
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
