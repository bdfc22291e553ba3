//! Manifests for the agent: a number of identical pods with a role, and a profile.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;

/// Request limits in the profile.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PodLimits {
    /// Higher than any load of these benchmarks.
    High,
    /// The defaults of a profile.
    Default,
    /// The highest that a policy allows by default, and user data of the maximum size.
    PolicyDefault,
}

/// A temporary directory. Dropping it removes the directory.
#[derive(Debug)]
pub(crate) struct WorkDir(PathBuf);

impl WorkDir {
    /// Creates the directory.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub(crate) fn create() -> Result<Self> {
        let work_dir = std::env::temp_dir().join(format!("podmeta-bench-{}", std::process::id()));
        std::fs::create_dir_all(&work_dir)?;
        Ok(Self(work_dir))
    }

    /// Writes a manifest file with `number` pods.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn pods(&self, number: usize, limits: PodLimits) -> Result<PathBuf> {
        let path = self.0.join(format!("pods-{number}-{limits:?}.yaml"));
        std::fs::write(&path, yaml(number, limits))?;
        Ok(path)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn yaml(number: usize, limits: PodLimits) -> String {
    let user_data = "x".repeat(16 * 1024);
    let limits = match limits {
        PodLimits::High => "{requestsPerSecond: 100000, burst: 200000, connections: 4096}".to_owned(),
        PodLimits::Default => "{}".to_owned(),
        PodLimits::PolicyDefault => {
            format!("{{requestsPerSecond: 2000, burst: 2000, connections: 1024}}\n  userData: {{inline: {user_data}}}")
        }
    };
    let mut text = format!(
        "apiVersion: v1
kind: Node
metadata:
  name: node-1
  labels:
    topology.kubernetes.io/region: eu-west-1
    topology.kubernetes.io/zone: eu-west-1a
    node.kubernetes.io/instance-type: m7i.large
---
apiVersion: v1
kind: Secret
metadata: {{name: keys, labels: {{podmeta.dev/usable-by: metadataprofiles}}}}
stringData:
  accessKeyId: ASIAIOSFODNN7EXAMPLE
  secretAccessKey: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
  sessionToken: {}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataPolicy
metadata: {{name: high}}
spec: {{maxRequestsPerSecond: 100000, maxConnections: 4096}}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {{name: web}}
spec:
  podSelector: {{matchLabels: {{app: web}}}}
  dialects: [ec2]
  limits: {limits}
  roles:
    - {{name: web-role, dialect: ec2, secret: {{name: keys}}}}
",
        "IQoJb3JpZ2luX2VjEXAMPLE".repeat(40) // the length of an STS session token
    );
    for pod in 0..number {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Pod
metadata:
  name: web-{pod}
  labels: {{app: web, team: payments, app.kubernetes.io/version: \"1.{pod}\"}}
spec:
  nodeName: node-1
  containers:
    - {{name: web, image: \"registry.example/web:1.0\"}}
"
        );
    }
    text
}
