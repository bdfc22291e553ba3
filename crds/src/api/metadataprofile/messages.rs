//! Messages of rules that both the schema and [`crate::profile`] check. The path of the field precedes the message.

pub(crate) const ROLE_DIALECT: &str = "must be a dialect listed in spec.dialects";
pub(crate) const ITEM_DIALECT: &str = "must be a dialect listed in spec.dialects";
// Clients use the whole listing of roles as one role name.
pub(crate) const ONE_ROLE: &str = "must have at most one role for each dialect";
pub(crate) const DUPLICATE_ITEM: &str = "must not have two items with the same dialect and path";
pub(crate) const USER_IN_BOTH_LISTS: &str = "must not contain a user of allowedUsers";
pub(crate) const IPV6_NEEDS_EC2: &str =
    "enabled requires ec2 in spec.dialects: the ECS metadata service has no IPv6 address";
pub(crate) const BURST_BELOW_RATE: &str = "must be at least requestsPerSecond";
pub(crate) const ONE_ITEM_SOURCE: &str = "must set exactly one of value, fieldRef and expression";
pub(crate) const RESERVED_PATH: &str = "is a reserved path: it identifies the pod, or another field sets it";
pub(crate) const DOT_SEGMENT: &str = "must not have an empty segment or a dot segment";
pub(crate) const ONE_USER_DATA_SOURCE: &str = "must set exactly one of inline, configMapKeyRef and secretKeyRef";
pub(crate) const ONE_PROVIDER: &str = "must set exactly one of secret, awsWebIdentity, awsAssumeRole and aliyunOidc";
