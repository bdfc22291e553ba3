//! Translators of IPv6 to IPv4 addresses on the node (NAT64): finds them, and returns the IPv6 addresses that they translate to
//! service addresses. A packet to such an address leaves the translator as a packet of the node, which the guards pass.

pub mod forms;
mod kernel_modules;
mod routes;

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// Directory with an entry for each loaded kernel module.
const MODULES_DIR: &str = "/sys/module";

/// Returns the finding about the translators of a node, or `None` if none is found. The guards drop the RFC 6052 forms of the
/// service addresses. They do not drop other addresses that a translator or an eBPF program maps to a service address.
///
/// # Errors
/// If the routes of the node cannot be read.
pub(crate) async fn find(host: &Netns) -> Result<Option<String>> {
    let routes = routes::list(host).await.context("cannot read the IPv6 routes of the node")?;
    Ok(finding(&routes, &kernel_modules::loaded(Path::new(MODULES_DIR))))
}

/// Returns the finding about these routes and kernel modules.
fn finding(routes: &[String], modules: &[&str]) -> Option<String> {
    let routes = routes.iter().map(|route| format!("route {route}"));
    let modules = modules.iter().map(|module| format!("kernel module {module}"));
    let causes = routes.chain(modules).collect::<Vec<_>>().join(", ");
    (!causes.is_empty()).then(|| {
        format!(
            "the node translates IPv6 to IPv4 addresses ({causes}): the guards drop the RFC 6052 forms of the service addresses, but \
             not single addresses that the translator maps to them; do not map addresses to the service addresses"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_names_each_route_and_kernel_module() {
        assert_eq!(finding(&[], &[]), None);
        let text = finding(&["64:ff9b::/96 by nat64".to_owned()], &["jool"]).unwrap();
        assert!(text.contains("(route 64:ff9b::/96 by nat64, kernel module jool)"), "{text}");
    }
}
