//! The EC2 instance metadata service.
//! Source: EC2 user guide, "Use the Instance Metadata Service"; responses captured from 2018 to 2025.

mod document;
mod json;
mod placement;
mod response;
mod tree;
pub mod version;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::credentials::{Credentials, CredentialsFailure};
use crate::identity::{IdKind, ec2_id};
use crate::names::{InvalidValue, check_text};
use crate::options::TokenTtl;
use crate::path::CanonicalPath;
use crate::protocol::{OptionsMethods, Protocol, Selection, TokenHeaders};
use crate::rejection::RejectedRequest;
use crate::response::{HttpResponse, ItemResponse};
use crate::role::ProviderKind;
use crate::tree::{Lookup, Tree};
use crate::workload::{DialectPart, Link, Workload};

static TOKEN_HEADERS: TokenHeaders = TokenHeaders {
    token: HeaderName::from_static("x-aws-ec2-metadata-token"),
    ttl: HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds"),
};

const ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254))];

/// The EC2 dialect.
#[derive(Debug)]
pub struct Ec2;

impl Protocol for Ec2 {
    fn instance_kind(&self) -> &'static str {
        "an EC2 instance"
    }

    fn endpoint_variable(&self) -> &'static str {
        "AWS_EC2_METADATA_SERVICE_ENDPOINT"
    }

    fn example_command(&self) -> Option<&'static str> {
        Some("aws sts get-caller-identity")
    }

    fn selection(&self) -> Selection {
        Selection { addresses: &ADDRESSES, claims: |_| false }
    }

    fn token_headers(&self) -> Option<&'static TokenHeaders> {
        Some(&TOKEN_HEADERS)
    }

    fn options_methods(&self) -> Option<OptionsMethods> {
        Some(OptionsMethods { item: "OPTIONS, GET, HEAD", token_path: response::TOKEN_PATH_METHODS })
    }

    /// Trailing and repeated slashes are ignored, on leaves too: botocore requests `placement/availability-zone/`, the
    /// JavaScript SDK `//latest/…`.
    fn look_up<'t>(&self, tree: &'t Tree, path: &CanonicalPath<'_>) -> Option<Lookup<'t>> {
        let (prefix, below) = path.split_first();
        if prefix.is_empty() {
            return Some(Lookup::Listing(Bytes::from(version::PREFIXES.join("\n"))));
        }
        tree.get(below, version::parse(prefix)?)
    }

    fn token_response(&self, token: String, ttl: TokenTtl) -> HttpResponse {
        response::token(token, ttl)
    }

    fn item_headers(&self, modified: Option<Timestamp>) -> HeaderMap {
        response::item_headers(modified)
    }

    fn item_response(&self, item: ItemResponse) -> HttpResponse {
        response::item(item)
    }

    fn rejection_response(&self, rejected: &RejectedRequest) -> HttpResponse {
        response::rejection(rejected)
    }

    fn credentials_json(&self, credentials: &Credentials) -> Zeroizing<String> {
        json::credentials(credentials)
    }

    fn failure_json(&self, failure: &CredentialsFailure) -> Bytes {
        json::failure(failure)
    }

    fn render(&self, workload: &Workload, link: &Link) -> Option<Tree> {
        tree::render(workload, link)
    }

    fn document(&self, workload: &Workload, link: &Link, _audience: Option<&str>) -> Option<String> {
        document::document(workload, link)
    }

    fn own_paths(&self, workload: &Workload, _part: &DialectPart) -> Vec<String> {
        placement::own_paths(&workload.instance)
    }

    fn reserved_names(&self) -> &'static [&'static str] {
        &placement::RESERVED_NAMES
    }

    /// Source: EC2 user guide, "Tag your Amazon EC2 resources", tag restrictions.
    fn max_tags(&self) -> usize {
        50
    }

    /// Source: EC2 user guide, "View tags for your EC2 instances using instance metadata".
    fn check_tag_key(&self, key: &str) -> Result<(), InvalidValue> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+-=.,_:@".contains(c);
        check_text(key, 1..=128, allowed, "letters, digits and +-=.,_:@ on ec2").map_err(InvalidValue)?;
        if matches!(key, "." | ".." | "_index") {
            return Err(InvalidValue(format!("must not be {key:?} on ec2")));
        }
        Ok(())
    }

    fn instance_id(&self, uid: &str) -> String {
        ec2_id("i", IdKind::Instance, uid)
    }

    fn image_id(&self, image: &str) -> String {
        ec2_id("ami", IdKind::Image, image)
    }

    fn supports_provider(&self, provider: ProviderKind) -> bool {
        match provider {
            ProviderKind::Secret | ProviderKind::AwsWebIdentity | ProviderKind::AwsAssumeRole => true,
            ProviderKind::AliyunOidc => false,
        }
    }
}

#[cfg(test)]
mod tests;
