//! Selects the dialect of a request from the service address and the request head.

use std::net::IpAddr;

use crate::dialect::Dialect;
use crate::request::Request;

/// Rule that decides which requests belong to a dialect.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// The addresses of the metadata service.
    pub addresses: &'static [IpAddr],
    /// Returns true if the head marks the request as one of this dialect. It is used if dialects share an address.
    pub claims: fn(&Request<'_>) -> bool,
}

/// Returns the dialect of a request, or `None` if no dialect has the service address.
///
/// If dialects share the address, the first one that claims the request is selected, or else the first of
/// [`Dialect::ALL`].
#[must_use]
pub fn select(request: &Request<'_>) -> Option<Dialect> {
    let table = Dialect::ALL.into_iter().map(|dialect| (dialect, dialect.protocol().selection()));
    select_from(table, request)
}

fn select_from<D>(table: impl Iterator<Item = (D, Selection)>, request: &Request<'_>) -> Option<D> {
    let mut fallback = None;
    for (dialect, selection) in table.filter(|(_, selection)| selection.addresses.contains(&request.service)) {
        if (selection.claims)(request) {
            return Some(dialect);
        }
        fallback.get_or_insert(dialect);
    }
    fallback
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::{HeaderMap, HeaderValue, Method, Uri, Version};

    use super::*;
    use crate::session::LastToken;

    const LINK_LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

    fn with_request<T>(service: IpAddr, headers: &HeaderMap, check: impl FnOnce(&Request<'_>) -> T) -> T {
        let uri = Uri::from_static("/");
        let session = LastToken::default();
        let (method, version) = (&Method::GET, Version::HTTP_11);
        check(&Request { method, uri: &uri, path: None, version, headers, service, session: &session })
    }

    #[test]
    fn service_address_selects_its_dialect() {
        for (address, dialect) in [
            ("169.254.169.254", Some(Dialect::Ec2)),
            ("fd00:ec2::254", Some(Dialect::Ec2)),
            ("100.100.100.200", Some(Dialect::Ecs)),
            ("127.0.0.1", None),
        ] {
            let selected = with_request(address.parse().unwrap(), &HeaderMap::new(), select);
            assert_eq!(selected, dialect, "{address}");
        }
    }

    #[test]
    fn shared_address_selects_by_head_and_falls_back_to_the_first() {
        let table = [
            ("first", Selection { addresses: &[LINK_LOCAL], claims: |_| false }),
            ("other", Selection { addresses: &[LINK_LOCAL], claims: |r| r.headers.contains_key("metadata-flavor") }),
        ];
        let select =
            |headers: &HeaderMap| with_request(LINK_LOCAL, headers, |request| select_from(table.into_iter(), request));
        let mut headers = HeaderMap::new();
        assert_eq!(select(&headers), Some("first"));
        headers.insert("metadata-flavor", HeaderValue::from_static("Google"));
        assert_eq!(select(&headers), Some("other"));
    }

    #[test]
    fn service_address_of_a_dialect_has_the_family_of_the_local_address() {
        let service = |dialect: Dialect, local: &str| dialect.service_address(local.parse().unwrap()).to_string();
        assert_eq!(service(Dialect::Ec2, "127.0.0.1"), "169.254.169.254");
        assert_eq!(service(Dialect::Ec2, "::1"), "fd00:ec2::254");
        assert_eq!(service(Dialect::Ecs, "::1"), "100.100.100.200");
    }
}
