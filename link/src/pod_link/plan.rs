//! Compares the wanted link with the state of the kernel, and decides the action. Pure.

use std::net::IpAddr;

use crate::alias::Alias;

/// State of the kernel around a pod's link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The interface `imds0` in the pod.
    pub(super) pod_end: Option<PodEnd>,
    /// The interface with the link's name in the agent namespace.
    pub(super) agent_end: Option<AgentEnd>,
    /// Service addresses that something else in the pod uses: an address, or a route by another interface.
    pub(super) foreign: Vec<Foreign>,
}

/// The interface `imds0` in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PodEnd {
    pub(super) index: u32,
    /// Index of the other end, in its own namespace.
    pub(super) peer: Option<u32>,
    pub(super) is_veth: bool,
    /// It is up, has its addresses, and a route to each service address.
    pub(super) is_complete: bool,
}

/// The agent end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AgentEnd {
    pub(super) index: u32,
    pub(super) alias: Option<String>,
    /// It is up and has its routes to the pod.
    pub(super) is_complete: bool,
}

/// Something in a pod that uses a service address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    Address(IpAddr),
    Route(IpAddr),
}

/// Reason why a pod cannot have a link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Another program gave the pod a service address.
    #[error("the pod has the address {0} itself: remove it from the pod")]
    Address(IpAddr),
    /// Another program added a route to a service address.
    #[error("the pod has a route to {0} that is not podmeta's: remove it from the pod")]
    Route(IpAddr),
    /// An interface of another kind has the name.
    #[error("the pod has an interface imds0 that is not podmeta's: rename it")]
    Interface,
}

/// Action that makes a link complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing: the link is complete.
    Keep,
    /// Remove what is left of a link, and make a new one.
    Make { remove_pod_end: Option<u32>, remove_agent_end: Option<u32> },
}

/// Compares the wanted link with the state of the kernel.
///
/// # Errors
/// If something else in the pod uses a service address or the interface name.
pub(super) fn plan(found: &Found, wanted: &Alias) -> Result<Plan, Conflict> {
    match found.foreign.first() {
        Some(Foreign::Address(address)) => return Err(Conflict::Address(*address)),
        Some(Foreign::Route(address)) => return Err(Conflict::Route(*address)),
        None => {}
    }
    if found.pod_end.is_some_and(|end| !end.is_veth) {
        return Err(Conflict::Interface);
    }
    if let (Some(pod), Some(agent)) = (&found.pod_end, &found.agent_end)
        && pod.is_complete
        && agent.is_complete
        && pod.peer == Some(agent.index)
        && agent.alias.as_deref().is_some_and(|alias| is_alias_of(alias, wanted))
    {
        return Ok(Plan::Keep);
    }
    let pod_end = found.pod_end.map(|end| end.index);
    // Removing one end removes both.
    let is_pair = found.pod_end.and_then(|end| end.peer) == found.agent_end.as_ref().map(|end| end.index);
    let agent_end = found.agent_end.as_ref().map(|end| end.index).filter(|_| !is_pair);
    Ok(Plan::Make { remove_pod_end: pod_end, remove_agent_end: agent_end })
}

/// Returns true if an alias names the sandbox of the wanted one. Its MAC and addresses may differ: the pod can change those
/// of its interface later.
fn is_alias_of(alias: &str, wanted: &Alias) -> bool {
    alias.parse::<Alias>().is_ok_and(|alias| alias.pod == wanted.pod && alias.sandbox == wanted.sandbox)
}

#[cfg(test)]
mod tests {
    use podmeta_metadata::names::PodUid;

    use super::*;
    use crate::alias::SandboxId;

    fn alias(uid: &str) -> Alias {
        Alias {
            pod: PodUid::try_from(uid).unwrap(),
            sandbox: SandboxId::try_from("s1").unwrap(),
            mac: None,
            ipv4: None,
            ipv6: None,
        }
    }

    fn complete() -> Found {
        Found {
            pod_end: Some(PodEnd { index: 3, peer: Some(7), is_veth: true, is_complete: true }),
            agent_end: Some(AgentEnd { index: 7, alias: Some(alias("a").to_string()), is_complete: true }),
            foreign: Vec::new(),
        }
    }

    fn make(pod_end: Option<u32>, agent_end: Option<u32>) -> Result<Plan, Conflict> {
        Ok(Plan::Make { remove_pod_end: pod_end, remove_agent_end: agent_end })
    }

    #[test]
    fn complete_link_is_kept() {
        assert_eq!(plan(&complete(), &alias("a")), Ok(Plan::Keep));
    }

    #[test]
    fn link_of_a_pod_that_changed_its_addresses_is_kept() {
        let wanted = Alias { ipv4: Some([10, 0, 0, 9].into()), ..alias("a") };
        assert_eq!(plan(&complete(), &wanted), Ok(Plan::Keep));
    }

    #[test]
    fn missing_link_is_made() {
        assert_eq!(plan(&Found::default(), &alias("a")), make(None, None));
    }

    #[test]
    fn link_with_the_alias_of_another_pod_is_made_again() {
        assert_eq!(plan(&complete(), &alias("b")), make(Some(3), None));
    }

    #[test]
    fn incomplete_end_is_made_again() {
        let mut found = complete();
        found.pod_end.as_mut().unwrap().is_complete = false;
        assert_eq!(plan(&found, &alias("a")), make(Some(3), None));
        let mut found = complete();
        found.agent_end.as_mut().unwrap().is_complete = false;
        assert_eq!(plan(&found, &alias("a")), make(Some(3), None));
    }

    #[test]
    fn ends_of_different_pairs_are_both_removed() {
        let mut found = complete();
        found.pod_end.as_mut().unwrap().peer = Some(8);
        assert_eq!(plan(&found, &alias("a")), make(Some(3), Some(7)));
    }

    #[test]
    fn leftover_agent_end_is_removed() {
        let found = Found { pod_end: None, ..complete() };
        assert_eq!(plan(&found, &alias("a")), make(None, Some(7)));
    }

    #[test]
    fn foreign_use_of_a_service_address_is_an_error() {
        let address = IpAddr::from([169, 254, 169, 254]);
        let found = |foreign| Found { foreign: vec![foreign], ..complete() };
        assert_eq!(plan(&found(Foreign::Address(address)), &alias("a")), Err(Conflict::Address(address)));
        assert_eq!(plan(&found(Foreign::Route(address)), &alias("a")), Err(Conflict::Route(address)));
    }

    #[test]
    fn interface_of_another_kind_is_an_error() {
        let mut found = complete();
        found.pod_end.as_mut().unwrap().is_veth = false;
        assert_eq!(plan(&found, &alias("a")), Err(Conflict::Interface));
    }
}
