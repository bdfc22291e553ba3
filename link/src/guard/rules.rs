//! Guard 1: routing rules that prohibit forwarded traffic to the service addresses. They have no port: the kernel does not
//! know the port of an IP fragment, so a rule with a port would let fragments pass.
//!
//! ```text
//! 90: from all to ADDRESS iif lo goto 92        traffic of the node itself
//! 91: from all to ADDRESS prohibit              everything else
//! 92: from all nop
//! ```
//!
//! ADDRESS is a service address, or its translated form with the well-known prefix 64:ff9b::/96 (NAT64). A rule cannot match the
//! forms with all other prefixes: [`super::nft`] drops these.

use std::net::IpAddr;

use anyhow::Result;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Error, IpVersion};

use crate::agent_ns::has_ipv6;
use crate::nat64::forms;
use crate::netns::Netns;
use crate::route_socket::{RouteSocket, errno, is_exists};
use crate::service;

/// Priority of the rules that let the node's own traffic pass.
const PASS_PRIORITY: u32 = 90;

/// Priority of the rules that prohibit.
const PROHIBIT_PRIORITY: u32 = 91;

/// Priority of the rule at which the node's own traffic continues.
const END_PRIORITY: u32 = 92;

/// Name of the loopback interface. As input interface of a rule it stands for traffic of the node itself.
const LOOPBACK: &str = "lo";

/// A rule of the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Makes traffic of the node itself to an address skip the rules that prohibit.
    Pass(IpAddr),
    /// Prohibits traffic to an address.
    Prohibit(IpAddr),
    /// The target of [`Rule::Pass`]. It has no effect.
    End,
}

/// Adds the rules that are missing and returns their number.
pub(super) async fn ensure(host: &Netns) -> Result<usize> {
    let route = RouteSocket::open(host)?;
    let mut added = 0;
    for family in families(host)? {
        let found = dump(&route, family).await?;
        for rule in missing(family, &found) {
            match add(&route, family, rule).await {
                Ok(()) => added += 1,
                Err(error) if is_exists(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(added)
}

/// Removes all rules of the guard. Also removes rules that differ from them only in the address, or in attributes that limit no
/// packets. A rule with another selector stays.
pub(super) async fn remove(host: &Netns) -> Result<()> {
    let route = RouteSocket::open(host)?;
    for family in families(host)? {
        for message in dump(&route, family).await?.into_iter().filter(|message| parse(message).is_some()) {
            match route.rule().del(message).execute().await {
                Err(error) if errno(&error) != Some(nix::libc::ENOENT) => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Returns the families that the namespace has.
fn families(host: &Netns) -> Result<Vec<AddressFamily>> {
    let mut families = vec![AddressFamily::Inet];
    if has_ipv6(host)? {
        families.push(AddressFamily::Inet6);
    }
    Ok(families)
}

/// Returns the rules that are missing in the kernel, in the order of their addition. A rule that prohibits comes after the
/// one that lets the node pass.
fn missing(family: AddressFamily, found: &[RuleMessage]) -> Vec<Rule> {
    let mut addresses = guarded_addresses();
    addresses.retain(|address| address.is_ipv6() == (family == AddressFamily::Inet6));
    let pass = addresses.iter().copied().map(Rule::Pass);
    let prohibit = addresses.iter().copied().map(Rule::Prohibit);
    let found = found.iter().filter_map(parse).collect::<Vec<_>>();
    std::iter::once(Rule::End).chain(pass).chain(prohibit).filter(|rule| !found.contains(rule)).collect()
}

/// Returns the service addresses, and the translated forms with the well-known prefix.
fn guarded_addresses() -> Vec<IpAddr> {
    let translated = service::ipv4().into_iter().map(|address| forms::well_known(address).into());
    service::addresses().into_iter().chain(translated).collect()
}

/// Returns all rules of a family.
async fn dump(route: &RouteSocket, family: AddressFamily) -> Result<Vec<RuleMessage>, Error> {
    let version = if family == AddressFamily::Inet6 { IpVersion::V6 } else { IpVersion::V4 };
    route.rule().get(version).execute().try_collect().await
}

async fn add(route: &RouteSocket, family: AddressFamily, rule: Rule) -> Result<(), Error> {
    let mut request = route.rule().add();
    *request.message_mut() = message(family, rule);
    request.execute().await
}

/// Returns the netlink message of a rule.
fn message(family: AddressFamily, rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    let (priority, action, address) = match rule {
        Rule::Pass(address) => (PASS_PRIORITY, RuleAction::Goto, Some(address)),
        Rule::Prohibit(address) => (PROHIBIT_PRIORITY, RuleAction::Prohibit, Some(address)),
        Rule::End => (END_PRIORITY, RuleAction::Nop, None),
    };
    message.header.action = action;
    message.attributes.push(RuleAttribute::Priority(priority));
    if let Some(address) = address {
        message.header.dst_len = if address.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RuleAttribute::Destination(address));
    }
    if let Rule::Pass(_) = rule {
        message.attributes.push(RuleAttribute::Iifname(LOOPBACK.to_owned()));
        message.attributes.push(RuleAttribute::Goto(END_PRIORITY));
    }
    message
}

/// Parses a message of the kernel as a rule of the guard. Returns `None` for any other rule.
fn parse(found: &RuleMessage) -> Option<Rule> {
    let destination = found.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Destination(address) => Some(*address),
        _ => None,
    });
    let candidates = match destination {
        Some(address) => vec![Rule::Pass(address), Rule::Prohibit(address)],
        None => vec![Rule::End],
    };
    candidates.into_iter().find(|rule| {
        let wanted = message(found.header.family, *rule);
        found.header.action == wanted.header.action
            && found.header.dst_len == wanted.header.dst_len
            && wanted.attributes.iter().all(|attribute| found.attributes.contains(attribute))
            && found.attributes.iter().filter(|attribute| is_selector(attribute)).count()
                == wanted.attributes.iter().filter(|attribute| is_selector(attribute)).count()
    })
}

/// Returns true for attributes that limit which packets match. The kernel adds others, such as the table.
fn is_selector(attribute: &RuleAttribute) -> bool {
    !matches!(
        attribute,
        RuleAttribute::Table(_)
            | RuleAttribute::SuppressPrefixLen(_)
            | RuleAttribute::SuppressIfGroup(_)
            | RuleAttribute::Protocol(_)
            | RuleAttribute::Other(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(family: AddressFamily) -> Vec<RuleMessage> {
        missing(family, &[]).into_iter().map(|rule| message(family, rule)).collect()
    }

    #[test]
    fn each_address_needs_a_pass_and_a_prohibition() {
        assert_eq!(missing(AddressFamily::Inet, &[]).len(), 1 + 2 * service::ipv4().len());
        let ipv6 = service::ipv6().len() + service::ipv4().len();
        assert_eq!(missing(AddressFamily::Inet6, &[]).len(), 1 + 2 * ipv6);
        let translated = "64:ff9b::169.254.169.254".parse().unwrap();
        assert!(missing(AddressFamily::Inet6, &[]).contains(&Rule::Prohibit(translated)));
    }

    #[test]
    fn node_passes_before_anything_is_prohibited() {
        let rules = missing(AddressFamily::Inet, &[]);
        let first_prohibition = rules.iter().position(|rule| matches!(rule, Rule::Prohibit(_))).unwrap();
        let last_pass = rules.iter().rposition(|rule| matches!(rule, Rule::Pass(_))).unwrap();
        assert!(last_pass < first_prohibition);
    }

    #[test]
    fn complete_guard_misses_nothing() {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            assert_eq!(missing(family, &all(family)), []);
        }
    }

    #[test]
    fn removed_rule_is_missing() {
        let mut found = all(AddressFamily::Inet);
        let removed = parse(&found.remove(3)).unwrap();
        assert_eq!(missing(AddressFamily::Inet, &found), [removed]);
    }

    #[test]
    fn near_duplicate_with_another_selector_does_not_count() {
        let mut found = all(AddressFamily::Inet);
        for message in &mut found {
            message.attributes.push(RuleAttribute::FwMark(7));
        }
        assert_eq!(missing(AddressFamily::Inet, &found).len(), found.len());
    }
}
