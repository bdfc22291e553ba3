//! The Alibaba Cloud ECS instance metadata service.
//! Source: Alibaba Cloud help, "Instance metadata" (2025-2026). docs/coverage.md lists podmeta's choices where it has no rule.

mod document;
mod json;
mod placement;
mod response;
pub mod tree;

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use crate::credentials::{Credentials, CredentialsFailure};
use crate::identity::{IdKind, alphanumeric_id};
use crate::names::{InvalidValue, check_text};
use crate::options::TokenTtl;
use crate::path::CanonicalPath;
use crate::protocol::{Protocol, Selection, TokenHeaders};
use crate::rejection::{RejectedRequest, Rejection};
use crate::response::{HttpResponse, ItemResponse};
use crate::role::ProviderKind;
use crate::tree::{DocumentForm, Lookup, Tree};
use crate::workload::{DialectPart, Link, Workload};

static TOKEN_HEADERS: TokenHeaders = TokenHeaders {
    token: HeaderName::from_static("x-aliyun-ecs-metadata-token"),
    ttl: HeaderName::from_static("x-aliyun-ecs-metadata-token-ttl-seconds"),
};

const ADDRESSES: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200))];

/// The directory of the role. Alibaba Cloud's documentation and clients also write `Ram`.
const RAM: &str = "meta-data/ram";

/// The number of letters and digits in an ID, after its prefix.
const ID_LENGTH: usize = 20;

/// The ECS dialect.
#[derive(Debug)]
pub struct Ecs;

impl Protocol for Ecs {
    fn instance_kind(&self) -> &'static str {
        "an Alibaba Cloud ECS instance"
    }

    fn endpoint_variable(&self) -> &'static str {
        "ALIBABA_CLOUD_IMDS_ENDPOINT"
    }

    fn selection(&self) -> Selection {
        Selection { addresses: &ADDRESSES, claims: |_| false }
    }

    fn token_headers(&self) -> Option<&'static TokenHeaders> {
        Some(&TOKEN_HEADERS)
    }

    /// Trailing and repeated slashes are ignored. `Ram`, in any letter case, is `ram`.
    fn look_up<'t>(&self, tree: &'t Tree, path: &CanonicalPath<'_>) -> Option<Lookup<'t>> {
        let (prefix, below) = path.split_first();
        if prefix.is_empty() {
            return Some(Lookup::Listing(Bytes::from(tree::PREFIXES.join("\n"))));
        }
        if !tree::PREFIXES.contains(&prefix) {
            return None;
        }
        match (below.get(..RAM.len()), below.get(RAM.len()..)) {
            (Some(start), Some(rest))
                if start.eq_ignore_ascii_case(RAM)
                    && start.starts_with("meta-data/")
                    && (rest.is_empty() || rest.starts_with('/')) =>
            {
                tree.get(&format!("{RAM}{rest}"), tree::ALWAYS)
            }
            _ => tree.get(below, tree::ALWAYS),
        }
    }

    /// Only the PKCS #7 form has an audience.
    fn audience(&self, item: DocumentForm, query: Option<&str>) -> Result<Option<String>, Rejection> {
        if item == DocumentForm::Pkcs7 { audience(query) } else { Ok(None) }
    }

    fn token_response(&self, token: String, _ttl: TokenTtl) -> HttpResponse {
        response::token(token)
    }

    fn item_headers(&self, _modified: Option<Timestamp>) -> HeaderMap {
        response::item_headers()
    }

    fn item_response(&self, item: ItemResponse) -> HttpResponse {
        response::item(item)
    }

    fn rejection_response(&self, rejected: &RejectedRequest) -> HttpResponse {
        response::rejection(&rejected.rejection)
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

    fn document(&self, workload: &Workload, link: &Link, audience: Option<&str>) -> Option<String> {
        document::document(workload, link, audience)
    }

    fn own_paths(&self, workload: &Workload, part: &DialectPart) -> Vec<String> {
        placement::own_paths(&workload.instance, part)
    }

    fn reserved_names(&self) -> &'static [&'static str] {
        &placement::RESERVED_NAMES
    }

    /// Source: <https://www.alibabacloud.com/help/en/resource-management/latest/limits>, limits on tags, and ECS `AddTags`.
    fn max_tags(&self) -> usize {
        20
    }

    /// Source: ECS `TagResources`. Rejects also keys with `/`, `%` or white space, because a key is one path segment.
    fn check_tag_key(&self, key: &str) -> Result<(), InvalidValue> {
        let allowed = |c: char| !c.is_control() && !c.is_whitespace() && !"/%?#\\".contains(c);
        check_text(key, 1..=128, allowed, "one path segment on ecs").map_err(InvalidValue)?;
        if key.starts_with("aliyun") || key.starts_with("acs:") || matches!(key, "." | "..") {
            return Err(InvalidValue("must not start with aliyun or acs:, or be a dot segment, on ecs".to_owned()));
        }
        Ok(())
    }

    fn instance_id(&self, uid: &str) -> String {
        alphanumeric_id("i-", IdKind::Instance, uid, ID_LENGTH)
    }

    fn image_id(&self, image: &str) -> String {
        alphanumeric_id("m-", IdKind::Image, image, ID_LENGTH)
    }

    fn supports_provider(&self, provider: ProviderKind) -> bool {
        match provider {
            ProviderKind::Secret | ProviderKind::AliyunOidc => true,
            ProviderKind::AwsWebIdentity | ProviderKind::AwsAssumeRole => false,
        }
    }
}

/// Returns the value of the parameter `audience` in a query, URL-decoded once. An empty value counts as absent.
///
/// # Errors
/// If the query has two such parameters, or the value is longer than 1,024 bytes or not UTF-8.
fn audience(query: Option<&str>) -> Result<Option<String>, Rejection> {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut audiences = pairs.filter(|(name, _)| percent_decode_str(name).eq(b"audience".iter().copied()));
    let (Some((_, audience)), second) = (audiences.next(), audiences.next()) else { return Ok(None) };
    if second.is_some() {
        return Err(Rejection::Malformed("it has more than one audience"));
    }
    let spaced = audience.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) if text.len() <= document::MAX_AUDIENCE_BYTES => Ok(Some(text.into_owned())),
        Ok(_) => Err(Rejection::Malformed("its audience is longer than 1024 bytes")),
        Err(_) => Err(Rejection::Malformed("its audience is not UTF-8")),
    }
}

#[cfg(test)]
mod tests;
