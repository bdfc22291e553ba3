//! The pods that are served: alike, each with a role of its own cloud and the tags, items and user data of a usual one.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;

/// How much a pod may ask.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limits {
    /// So much that nothing here reaches it.
    High,
    /// What a profile has that does not say.
    Default,
}

/// A folder of this run, removed at its end.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// A new folder.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn make() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("podmeta-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Writes a file of `number` pods.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn pods(&self, number: usize, limits: Limits) -> Result<PathBuf> {
        let path = self.0.join(format!("pods-{number}-{limits:?}.yaml"));
        std::fs::write(&path, yaml(number, limits))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn yaml(number: usize, limits: Limits) -> String {
    let limits = match limits {
        Limits::High => "{requestsPerSecond: 100000, burst: 200000, connections: 4096}",
        Limits::Default => "{}",
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
metadata: {{name: keys}}
stringData:
  accessKeyId: ASIAIOSFODNN7EXAMPLE
  secretAccessKey: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
  sessionToken: {}
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
        "IQoJb3JpZ2luX2VjEXAMPLE".repeat(40) // as long as those of STS
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
