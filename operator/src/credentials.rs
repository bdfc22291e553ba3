//! Credentials from the clouds: a session of a role for each pod.
//!
//! [`request`] resolves the parameters of a role from the compiled pod, while the state is locked. The cloud is called without
//! the lock.
//!
//! - [`settings`]: endpoints, regions and limits. Only flags set them, never a profile.
//! - [`request`]: the parameters of a session, which are the key of the [`cache`]. [`session`]: its name and tags.
//! - [`cache`]: when credentials are served, renewed and dropped (pure). [`fair_rate`]: the rate of calls to a cloud.
//! - [`issuer`]: shares calls, renews before need, and reports each result.
//! - [`providers`]: `awsWebIdentity`, `awsAssumeRole`, `aliyunOidc`. [`failure`]: what a pod gets if they fail.
//! - [`clock_skew`]: the difference between the clocks of the operator and a cloud.
//! - [`pod_token`]: ServiceAccount tokens of pods. [`token_policy`]: proves that the operator can request no others.

pub mod cache;
pub mod clock_skew;
pub mod failure;
pub mod fair_rate;
pub mod issuer;
pub mod pod_token;
pub mod providers;
pub mod request;
pub mod session;
pub mod settings;
#[cfg(test)]
pub(crate) mod stub_sts;
pub mod token_policy;
