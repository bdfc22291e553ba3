//! The two clouds whose metadata service a pod may be given. Each one's rules live in its own file below this one;
//! they share no branch in which the clouds differ.

pub mod ec2;
pub mod ecs;
mod page;

use std::fmt;

use serde::{Deserialize, Serialize};

/// One cloud's metadata protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// The EC2 instance metadata service, at 169.254.169.254 and fd00:ec2::254.
    Ec2,
    /// The Alibaba Cloud ECS instance metadata service, at 100.100.100.200.
    Ecs,
}

impl Dialect {
    /// Both dialects, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::Ec2, Self::Ecs];

    /// The name used in resources, tokens, logs and metrics: `ec2` or `ecs`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Ecs => "ecs",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
