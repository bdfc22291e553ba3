//! The Host check of loopback ports. A web page can make a browser send requests to a loopback port under a name that
//! resolves to it (DNS rebinding), so only addresses and `localhost` are accepted.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::HOST;
use http::uri::Authority;

/// Checks that no Host is a name other than `localhost`.
///
/// # Errors
/// If a Host is another name.
pub(super) fn check(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut hosts = headers.get_all(HOST).iter().filter_map(|host| host.to_str().ok());
    if hosts.any(is_other_name) {
        return Err("its Host is a name other than localhost; a web page may have sent it");
    }
    Ok(())
}

fn is_other_name(host: &str) -> bool {
    let is_address = |host: &str| host.parse::<IpAddr>().is_ok();
    if is_address(host) {
        return false;
    }
    let Ok(authority) = host.parse::<Authority>() else { return false }; // rejected later, as malformed
    let name = authority.host().trim_matches(['[', ']']);
    !is_address(name) && !name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn host_is_an_address_or_localhost() {
        let check = |host: &'static str| check(&HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]));
        for host in ["127.0.0.1:20001", "[::1]:80", "::1", "localhost", "LocalHost:20001", "169.254.169.254"] {
            assert_eq!(check(host), Ok(()), "{host}");
        }
        for host in ["rebind.example", "localhost.example:20001", "127.0.0.1.example"] {
            assert!(check(host).is_err(), "{host}");
        }
    }
}
