//! The `Host` of requests to the loopback ports of the dev server.

use podmeta_metadata::host::HostRule;

/// The rule of a loopback port. Every browser of the machine can reach it, so it serves `localhost` and addresses only, and
/// HTTP/1.1 requests need a `Host`.
pub(super) const LOOPBACK: HostRule = HostRule {
    requires_host: true,
    serves_name: |name| name == "localhost",
    error: "its Host is neither an IP address nor localhost",
};

#[cfg(test)]
mod tests {
    use http::header::HOST;
    use http::{HeaderMap, HeaderValue, Version};

    use super::*;

    fn check(host: &'static str) -> Result<(), &'static str> {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
        LOOPBACK.check(&headers, Version::HTTP_11)
    }

    #[test]
    fn loopback_port_serves_no_name_but_localhost() {
        for host in ["localhost", "LocalHost:20001", "127.0.0.1:20001", "[::1]:20001"] {
            assert_eq!(check(host), Ok(()), "{host}");
        }
        for host in
            ["rebind.example", "localhost.example:20001", "127.0.0.1.example", "localhost.", "instance-data", ""]
        {
            assert_eq!(check(host), Err("its Host is neither an IP address nor localhost"), "{host}");
        }
        assert!(LOOPBACK.check(&HeaderMap::new(), Version::HTTP_11).is_err());
    }
}
