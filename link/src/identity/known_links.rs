//! The links that are known. Events add and remove them. Events can get lost: a list of all links, which is read again
//! from time to time, corrects the table.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rtnetlink::packet_route::link::LinkMessage;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use super::{LinkChange, LinkOwner};
use crate::alias::NODE_ALIAS;
use crate::pod_link::alias_of;

#[derive(Clone, Debug)]
pub(super) struct KnownLinks {
    state: Arc<Mutex<State>>,
    /// Wakes the waits for a link after one was added.
    added: Arc<Notify>,
    changes_tx: UnboundedSender<LinkChange>,
}

#[derive(Debug, Default)]
struct State {
    by_interface: HashMap<u32, LinkOwner>,
    /// Interfaces with an event since the last list was requested. The list can be older than the event.
    with_event: HashSet<u32>,
}

impl KnownLinks {
    /// Sends each change to `changes_tx`.
    pub(super) fn new(changes_tx: UnboundedSender<LinkChange>) -> Self {
        Self { state: Arc::default(), added: Arc::default(), changes_tx }
    }

    pub(super) fn get(&self, interface: u32) -> Option<LinkOwner> {
        self.lock().by_interface.get(&interface).cloned()
    }

    /// Waits until an interface is added.
    pub(super) async fn wait_for(&self, interface: u32) -> LinkOwner {
        loop {
            let mut added = pin!(self.added.notified());
            added.as_mut().enable();
            if let Some(owner) = self.get(interface) {
                return owner;
            }
            added.await;
        }
    }

    /// Applies the event of a new or changed interface. Interfaces without a valid alias are no links.
    pub(super) fn apply_new(&self, link: &LinkMessage) {
        let Some(owner) = parse_alias(link) else { return };
        let mut state = self.lock();
        state.with_event.insert(link.header.index);
        self.set(&mut state, link.header.index, Some(owner));
    }

    /// Applies the event of a removed interface.
    pub(super) fn apply_removed(&self, interface: u32) {
        let mut state = self.lock();
        state.with_event.insert(interface);
        self.set(&mut state, interface, None);
    }

    /// Must be called before a list of all interfaces is requested.
    pub(super) fn start_list(&self) {
        self.lock().with_event.clear();
    }

    /// Applies a list of all interfaces. Events that arrived since [`KnownLinks::start_list`] take precedence.
    pub(super) fn apply_list(&self, interfaces: &[LinkMessage]) {
        let mut state = self.lock();
        let listed = interfaces.iter().filter_map(|link| Some((link.header.index, parse_alias(link)?)));
        let listed = listed.collect::<HashMap<_, _>>();
        let known = state.by_interface.keys().copied().collect::<HashSet<_>>();
        for interface in known.into_iter().chain(listed.keys().copied()) {
            if !state.with_event.contains(&interface) {
                self.set(&mut state, interface, listed.get(&interface).cloned());
            }
        }
    }

    /// Sets or removes a link, and sends the change of its pod. A pod can have two sandboxes for a short time: its newest link
    /// has the highest index.
    fn set(&self, state: &mut State, interface: u32, owner: Option<LinkOwner>) {
        let before = match &owner {
            Some(owner) => state.by_interface.insert(interface, owner.clone()),
            None => state.by_interface.remove(&interface),
        };
        if before == owner {
            return;
        }
        self.added.notify_waiters();
        for changed in before.into_iter().chain(owner).filter_map(LinkOwner::into_pod) {
            let links = state.by_interface.iter().filter_map(|(interface, owner)| Some((interface, owner.pod()?)));
            let of_pod = links.filter(|(_, link)| link.pod == changed.pod);
            let change = match of_pod.max_by_key(|(interface, _)| **interface) {
                Some((_, newest)) => LinkChange::Added(Arc::clone(newest)),
                None => LinkChange::Removed(changed),
            };
            let _closed = self.changes_tx.send(change);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn parse_alias(link: &LinkMessage) -> Option<LinkOwner> {
    let alias = alias_of(link)?;
    if alias == NODE_ALIAS {
        return Some(LinkOwner::Node);
    }
    alias.parse().ok().map(|alias| LinkOwner::Pod(Arc::new(alias)))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkAttribute;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    fn known_links() -> (KnownLinks, UnboundedReceiver<LinkChange>) {
        let (changes_tx, changes_rx) = unbounded_channel();
        (KnownLinks::new(changes_tx), changes_rx)
    }

    fn link(interface: u32, pod: &str, sandbox: &str) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = interface;
        link.attributes.push(LinkAttribute::IfAlias(format!("podmeta/1 uid={pod} sandbox={sandbox}")));
        link
    }

    /// Returns the changes that were sent, such as `+sandbox`.
    fn sent(changes_rx: &mut UnboundedReceiver<LinkChange>) -> Vec<String> {
        std::iter::from_fn(|| changes_rx.try_recv().ok())
            .map(|change| match change {
                LinkChange::Added(alias) => format!("+{}", alias.sandbox.as_str()),
                LinkChange::Removed(alias) => format!("-{}", alias.sandbox.as_str()),
            })
            .collect()
    }

    #[test]
    fn list_that_is_older_than_an_event_does_not_revert_it() {
        let (links, mut changes) = known_links();
        links.apply_list(&[link(5, "uid-1", "a")]);
        links.start_list();
        links.apply_removed(5);
        links.apply_new(&link(9, "uid-2", "b"));
        links.apply_list(&[link(5, "uid-1", "a")]);
        assert_eq!(sent(&mut changes), ["+a", "-a", "+b"]);
        links.start_list();
        links.apply_list(&[]);
        assert_eq!(sent(&mut changes), ["-b"], "the event that removed it was lost");
    }

    #[test]
    fn pod_with_two_links_has_the_newest_one_until_it_is_removed() {
        let (links, mut changes) = known_links();
        links.apply_new(&link(9, "uid-1", "b"));
        links.apply_new(&link(5, "uid-1", "a"));
        links.apply_removed(5);
        assert_eq!(sent(&mut changes), ["+b", "+b", "+b"]);
        links.apply_new(&link(5, "uid-1", "a"));
        links.apply_removed(9);
        links.apply_removed(5);
        assert_eq!(sent(&mut changes), ["+b", "+a", "-a"]);
    }

    #[test]
    fn interface_that_gets_another_alias_changes_both_pods() {
        let (links, mut changes) = known_links();
        links.apply_new(&link(5, "uid-1", "a"));
        links.apply_new(&link(5, "uid-2", "b"));
        assert_eq!(sent(&mut changes), ["+a", "-a", "+b"]);
    }
}
