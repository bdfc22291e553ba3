//! The dialect table: everything that differs between the clouds' metadata protocols.
//!
//! CONTRIBUTING.md lists what a new dialect needs.

pub mod ec2;
pub mod ecs;
mod error_page;
mod select;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::credentials::{Credentials, CredentialsFailure};
use crate::dialect::Dialect;
use crate::names::InvalidValue;
use crate::options::TokenTtl;
use crate::path::CanonicalPath;
use crate::rejection::{RejectedRequest, Rejection};
use crate::response::{HttpResponse, ItemResponse};
use crate::role::ProviderKind;
use crate::tree::{DocumentForm, Lookup, Tree};
use crate::workload::{DialectPart, Link, Workload};

pub use select::{Selection, select};

impl Dialect {
    /// Returns the implementation of this dialect.
    #[must_use]
    pub fn protocol(self) -> &'static dyn Protocol {
        match self {
            Self::Ec2 => &ec2::Ec2,
            Self::Ecs => &ecs::Ecs,
        }
    }

    /// Returns the service address of the same address family as `local`, else the dialect's first one.
    #[must_use]
    pub fn service_address(self, local: IpAddr) -> IpAddr {
        let addresses = self.protocol().selection().addresses;
        let same_family = addresses.iter().find(|address| address.is_ipv6() == local.is_ipv6());
        same_family.or(addresses.first()).copied().unwrap_or(local)
    }
}

/// The names of the headers that carry a session token.
#[derive(Debug)]
pub struct TokenHeaders {
    /// Carries a token.
    pub token: HeaderName,
    /// Carries the requested lifetime of a new token, in seconds.
    pub ttl: HeaderName,
}

/// The values of `Allow` in responses to OPTIONS.
#[derive(Clone, Copy, Debug)]
pub struct OptionsMethods {
    /// The methods of an item or a listing.
    pub item: &'static str,
    /// The methods of the token path.
    pub token_path: &'static str,
}

/// Behaviour of one dialect that differs from the others.
pub trait Protocol: Sync {
    /// Returns the kind of instance with its article, such as `an EC2 instance`.
    fn instance_kind(&self) -> &'static str;

    /// Returns the environment variable that sets the endpoint in the cloud's SDKs.
    fn endpoint_variable(&self) -> &'static str;

    /// Returns a command that uses the credentials of the metadata service, as an example for users.
    fn example_command(&self) -> Option<&'static str> {
        None
    }

    /// Returns the rule that selects the requests of this dialect.
    fn selection(&self) -> Selection;

    /// Returns the session token headers, or `None` if the dialect has no session tokens.
    fn token_headers(&self) -> Option<&'static TokenHeaders>;

    /// Returns the methods that the dialect names for OPTIONS, or `None` if it rejects OPTIONS.
    fn options_methods(&self) -> Option<OptionsMethods> {
        None
    }

    /// Looks up the path of a request in the tree.
    fn look_up<'t>(&self, tree: &'t Tree, path: &CanonicalPath<'_>) -> Option<Lookup<'t>>;

    /// Returns the audience that a request names for a signed document.
    ///
    /// # Errors
    /// If the audience is malformed or too long.
    fn audience(&self, _item: DocumentForm, _query: Option<&str>) -> Result<Option<String>, Rejection> {
        Ok(None)
    }

    /// Returns the response that carries a new session token.
    fn token_response(&self, token: String, ttl: TokenTtl) -> HttpResponse;

    /// Returns the headers of a text item that was changed at `modified`. Other items have the same headers, except for those
    /// that [`Self::item_response`] changes.
    fn item_headers(&self, modified: Option<Timestamp>) -> HeaderMap;

    /// Returns the response that carries an item.
    fn item_response(&self, item: ItemResponse) -> HttpResponse;

    /// Returns the response to a rejected request.
    fn rejection_response(&self, rejected: &RejectedRequest) -> HttpResponse;

    /// Returns the JSON document that carries credentials. It is wiped from memory on drop.
    fn credentials_json(&self, credentials: &Credentials) -> Zeroizing<String>;

    /// Returns the JSON document that reports missing credentials. Its status code is 200 in both clouds.
    fn failure_json(&self, failure: &CredentialsFailure) -> Bytes;

    /// Renders the tree of a pod. Returns `None` if the pod has no such dialect.
    fn render(&self, workload: &Workload, link: &Link) -> Option<Tree>;

    /// Returns the text of the identity document that is signed. Returns `None` if the pod has none in this dialect.
    fn document(&self, workload: &Workload, link: &Link, audience: Option<&str>) -> Option<String>;

    /// Returns the paths of podmeta's own leaves below `meta-data/`, without those at or below a reserved path.
    fn own_paths(&self, workload: &Workload, part: &DialectPart) -> Vec<String>;

    /// Returns the first path segments that no item of a profile may have.
    fn reserved_names(&self) -> &'static [&'static str];

    /// Returns the maximum number of tags of an instance.
    fn max_tags(&self) -> usize;

    /// Checks the key of an instance tag.
    ///
    /// # Errors
    /// If the cloud does not allow the key.
    fn check_tag_key(&self, key: &str) -> Result<(), InvalidValue>;

    /// Returns the instance ID of the pod with this UID.
    fn instance_id(&self, uid: &str) -> String;

    /// Returns the image ID of a container image.
    fn image_id(&self, image: &str) -> String;

    /// Returns true if a role of this dialect can have this provider.
    fn supports_provider(&self, provider: ProviderKind) -> bool;
}
