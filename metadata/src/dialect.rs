//! The names of the metadata dialects. Everything that a dialect does is in [`crate::protocol`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// One cloud's metadata protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// The EC2 instance metadata service.
    Ec2,
    /// The Alibaba Cloud ECS instance metadata service.
    Ecs,
}

impl Dialect {
    /// All dialects, in display order.
    pub const ALL: [Self; 2] = [Self::Ec2, Self::Ecs];

    /// Returns the name used in resources, tokens, logs and metrics: `ec2` or `ecs`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Ecs => "ecs",
        }
    }

    /// Returns the dialect with this name, or `None` if there is none.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.as_str() == name)
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
