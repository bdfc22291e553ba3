//! Pods on the host network: their connections to the service addresses reach the node agent by a link of the node.
//!
//! Programs in the kubelet's cgroups replace the destination of `connect(2)` in the host's network namespace. podmeta does not listen
//! in that namespace, because a pod with root could listen on the same port. The cgroup of the client's socket identifies the pod.

pub mod addresses;
mod attachment;
mod cgroups;
pub mod identity;
mod node_link;
mod node_pods;
mod program;
mod takeover;

use std::collections::{BTreeSet, HashSet};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use podmeta_metadata::names::PodUid;

use crate::guard::uplink::check_pins;
use crate::netns::Netns;
use crate::range::LinkRange;
use crate::sys::netns_cookie;
use attachment::Attachment;
use cgroups::Cgroup;

pub use node_pods::{NodePods, OtherPods, UnredirectedPods};

/// The node's link and the programs of one node.
#[derive(Debug)]
pub struct HostPods {
    /// Path of the bpf filesystem with the pins.
    pins: PathBuf,
    /// Directory where cgroup v2 is mounted, or its parent if the node also has v1.
    cgroup_root: PathBuf,
    attachment: Option<Attachment>,
    /// True if open connections of redirected pods may have to be ended.
    may_have_open_connections: bool,
}

/// Changes of one check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostPodsRepairs {
    /// True if the node's link was made.
    pub link: bool,
    /// Number of programs that were attached or replaced.
    pub programs: usize,
    /// Number of open connections to the node's own metadata service that were ended.
    pub ended_connections: usize,
}

impl HostPods {
    /// Creates the state of a node. `pins` is the path of a bpf filesystem.
    #[must_use]
    pub const fn new(pins: PathBuf, cgroup_root: PathBuf) -> Self {
        Self { pins, cgroup_root, attachment: None, may_have_open_connections: true }
    }

    /// Exempts pods, in addition to those that are exempt. Does nothing before the programs are attached for the first time.
    ///
    /// # Errors
    /// If the cgroups of pods cannot be read, or the map of exempt pods cannot be written.
    pub fn exempt(&self, pods: &BTreeSet<PodUid>) -> Result<()> {
        let hierarchy = cgroups::hierarchy(&self.cgroup_root)?;
        let all = cgroups::pods(&hierarchy).context("cannot read the cgroups of pods")?.into_iter();
        attachment::exempt(&self.pins, all.filter(|(pod, _)| pods.contains(pod)).map(|(_, cgroup)| cgroup.id))
    }

    /// Makes the node's link and attaches the programs, as far as they are missing. Idempotent.
    ///
    /// First adds the routes that prohibit the addresses of the link. They make redirected connections fail while the link is missing.
    ///
    /// # Errors
    /// If a step fails, or no cgroup contains pods:
    ///
    /// - Without the routes, no program is attached: redirected connections could leave the node. Attached programs and exempt pods
    ///   stay as they are.
    /// - Without the link, the programs are attached, and connections of pods fail.
    pub async fn ensure(
        &mut self,
        host: &Netns,
        agent: &Netns,
        range: LinkRange,
        exempt: &UnredirectedPods,
    ) -> Result<HostPodsRepairs> {
        node_link::prohibit(host).await.context("cannot keep redirected connections on the node")?;
        let link = match check_range(range) {
            Ok(()) => node_link::ensure(host, agent).await,
            Err(error) => Err(error),
        };
        let programs = self.attach(host, exempt);
        let (link, (programs, ended_connections)) = (link?, programs?);
        Ok(HostPodsRepairs { link, programs, ended_connections })
    }

    /// Returns the number of programs that were attached, and that of connections that were ended.
    fn attach(&mut self, host: &Netns, exempt: &UnredirectedPods) -> Result<(usize, usize)> {
        check_pins(&self.pins)?;
        let hierarchy = cgroups::hierarchy(&self.cgroup_root)?;
        let attachment = match self.attachment.take() {
            Some(attachment) => attachment,
            None => {
                let cookie = host
                    .run(|| netns_cookie(UnixDatagram::unbound()?.as_fd()))
                    .context("cannot read the cookie of the host's namespace")?;
                Attachment::new(self.pins.clone(), cookie)
            }
        };
        let attachment = self.attachment.insert(attachment);
        let pods = cgroups::pods(&hierarchy).context("cannot read the cgroups of pods")?;
        let (exempt_pods, others) = pods.into_iter().partition::<Vec<_>, _>(|(pod, _)| exempt.pods.contains(pod));
        let ids = |pods: Vec<(_, Cgroup)>| pods.into_iter().map(|(_, cgroup)| cgroup.id).collect();
        let kept = match exempt.others {
            OtherPods::Redirect => BTreeSet::new(),
            OtherPods::Keep => ids(others),
        };
        let attached = attachment.ensure(&hierarchy, &ids(exempt_pods), &kept);
        // A check that failed can have attached some programs.
        self.may_have_open_connections |=
            attached.as_ref().map_or(true, |attached| attached.programs > 0 || attached.removed > 0);
        let attached = attached?;
        ensure!(
            attached.cgroups > 0,
            "the kubelet's cgroup of pods is not found; use cgroup v2 and the kubelet's default cgroup root"
        );
        let mut ended_connections = 0;
        if self.may_have_open_connections {
            let ended = end_connections(host, &hierarchy, &attachment::exempt_cgroups(&self.pins)?);
            ended_connections = ended.context("cannot end open connections of pods to the node's metadata service")?;
            self.may_have_open_connections = false;
        }
        Ok((attached.programs, ended_connections))
    }
}

/// Ends the open connections of pods to the node's own metadata service, except those of pods with an exempt cgroup.
fn end_connections(host: &Netns, hierarchy: &Path, exempt: &BTreeSet<u64>) -> Result<usize> {
    let cgroups = cgroups::with_descendants(hierarchy).context("cannot read the cgroups of pods")?;
    let exempt = exempt.iter().filter_map(|id| cgroups.get(id)).collect::<HashSet<_>>();
    let redirected = cgroups.iter().filter(|(_, pod)| !exempt.contains(pod)).map(|(id, _)| *id).collect();
    takeover::end_connections(host, &redirected).context("the kernel does not end connections")
}

/// Returns an error if the range of pods' links contains an address of the node's link.
fn check_range(range: LinkRange) -> Result<()> {
    let conflict = addresses::ipv4().find(|address| range.contains(*address));
    ensure!(
        conflict.is_none(),
        "the link range {range} contains {}, an address of the node's link; set another link range",
        addresses::NODE_IPV4
    );
    Ok(())
}

/// Detaches the programs. Connections of pods on the host network reach the node's own metadata service again. Succeeds if there
/// are none.
///
/// # Errors
/// If a program cannot be detached.
pub fn detach(pins: &Path) -> Result<()> {
    attachment::remove(pins)
}

/// Detaches the programs, and removes the node's link and its routes. Succeeds if there are none.
///
/// # Errors
/// If the kernel rejects a step.
pub async fn remove(pins: &Path, host: &Netns) -> Result<()> {
    detach(pins)?;
    node_link::remove(host).await
}
