//! The agent under test: the edge of the node agent with objects, keys and a clock that the case controls.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, bail, ensure};
use jiff::Timestamp;
use podmeta_metadata::compile::Settings;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::host::HostRule;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::request::IpFamily;
use podmeta_metadata::session::{KeyBytes, Keyring};
use podmeta_metadata::signature::Signer;
use podmeta_node_agent::broker::{Broker, FileBroker};
use podmeta_node_agent::dev::{DevState, InputFile, SocketPair};
use podmeta_node_agent::edge::{Arrival, Edge, EdgeServer, FindOwner};
use tokio_util::sync::CancellationToken;

use super::case::Restart;
use super::objects::CaseObjects;
use super::wire::{PipeConnection, pipe};

/// Start time of every case in Unix seconds: 2026-01-05T08:22:00Z.
const START_TIME: i64 = 1_767_601_320;

/// A node agent without sockets and without an operator.
pub(super) struct CaseAgent {
    edge: Arc<Edge>,
    files: Arc<FileBroker>,
    keys: Keyring,
    key_count: u8,
    clock: Arc<AtomicI64>,
    objects: CaseObjects,
    /// Last UID of each pod, by name. Deleted pods stay, so that a case can connect on their links.
    uids: BTreeMap<String, PodUid>,
    tables: Vec<SocketTable>,
}

impl CaseAgent {
    /// Starts an agent with these objects.
    pub(super) fn start(objects: CaseObjects) -> anyhow::Result<Self> {
        let clock = Arc::new(AtomicI64::new(START_TIME));
        let keys = Keyring::new(key_bytes(1), now(&clock)?);
        let (edge, files) = edge(&keys, &clock)?;
        let (uids, tables) = (BTreeMap::new(), Vec::new());
        let mut agent = Self { edge, files, keys, key_count: 1, clock, objects, uids, tables };
        agent.compile_and_publish()?;
        Ok(agent)
    }

    /// Applies patches to the objects.
    pub(super) fn change(&mut self, patches: &[serde_json::Value]) -> anyhow::Result<()> {
        self.objects.patch(patches)?;
        self.compile_and_publish()
    }

    /// Applies patches that must be rejected with a message that contains `message`, then reverts them.
    pub(super) fn expect_rejection(&mut self, patches: &[serde_json::Value], message: &str) -> anyhow::Result<()> {
        let before = self.objects.clone();
        self.objects.patch(patches)?;
        let result = self.compile_and_publish();
        self.objects = before;
        match result {
            Ok(()) => bail!("the change was accepted"),
            Err(error) => ensure!(error.to_string().contains(message), "wrong rejection message: {error}"),
        }
        Ok(())
    }

    /// Restarts the agent with its saved keys or with new ones.
    pub(super) fn restart(&mut self, how: Restart) -> anyhow::Result<()> {
        self.keys = match how {
            Restart::SameKeys => Keyring::from_json(&self.keys.to_json()?)?,
            Restart::NewKeys => Keyring::new(self.next_key(), now(&self.clock)?),
        };
        (self.edge, self.files) = edge(&self.keys, &self.clock)?;
        self.compile_and_publish()
    }

    /// Rotates the session key.
    pub(super) fn rotate_key(&mut self) -> anyhow::Result<()> {
        let key = self.next_key();
        self.keys = self.keys.rotated(key, now(&self.clock)?);
        self.edge.set_keys(self.keys.clone());
        Ok(())
    }

    /// Moves the clock by `seconds`. A positive value also advances the tokio clock of timeouts and limits.
    pub(super) async fn advance_clock(&self, seconds: i64) {
        self.clock.fetch_add(seconds, Ordering::Relaxed);
        if let Ok(seconds) = u64::try_from(seconds) {
            tokio::time::sleep(std::time::Duration::from_secs(seconds)).await;
        }
    }

    /// Opens a connection on the link of a pod.
    pub(super) fn connect(
        &mut self,
        pod: &str,
        dialect: Dialect,
        family: IpFamily,
        user: Option<u32>,
    ) -> anyhow::Result<PipeConnection> {
        let uid = self.uids.get(pod).with_context(|| format!("unknown pod {pod}"))?.clone();
        let peer = match user {
            None => None,
            Some(user) => {
                let (table, peer) = SocketTable::with(user)?;
                self.tables.push(table);
                Some(peer)
            }
        };
        let (connection, edge_end) = pipe();
        let server = EdgeServer::new(Arc::clone(&self.edge), CancellationToken::new());
        let local = match family {
            IpFamily::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpFamily::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let arrival = Arrival {
            pod: uid,
            service: dialect.service_address(local),
            family,
            host_rule: &HostRule::POD_LINK,
            owner: peer.map(|peer| Arc::new(peer) as Arc<dyn FindOwner>),
        };
        tokio::spawn(async move { server.serve(edge_end, Box::new(arrival)).await });
        Ok(connection)
    }

    fn next_key(&mut self) -> KeyBytes {
        self.key_count += 1;
        key_bytes(self.key_count)
    }

    /// Compiles the objects and publishes the pods to the edge, as `dev` does after a file change.
    fn compile_and_publish(&mut self) -> anyhow::Result<()> {
        let file = InputFile { name: "objects".to_owned(), text: self.objects.yaml() };
        let mut state = match DevState::compile(&[file], now(&self.clock)?, &Settings::default()) {
            Ok(state) => state,
            Err(problems) => {
                let problems = problems.iter().map(|problem| format!("{problem:?}")).collect::<Vec<_>>();
                bail!("invalid objects: {}", problems.join("; "));
            }
        };
        state.secrets.retain(|key, _| !self.objects.is_deleted(key));
        self.uids.extend(state.pods.iter().map(|(name, pod)| (name.clone(), pod.uid.clone())));
        self.files.set_secrets(state.secrets);
        self.edge.publish(state.pods.into_values().map(|pod| (pod.uid, pod.view)));
        Ok(())
    }
}

fn now(clock: &AtomicI64) -> anyhow::Result<Timestamp> {
    Ok(Timestamp::from_second(clock.load(Ordering::Relaxed))?)
}

fn edge(keys: &Keyring, clock: &Arc<AtomicI64>) -> anyhow::Result<(Arc<Edge>, Arc<FileBroker>)> {
    let clock = Arc::clone(clock);
    let clock = Arc::new(move || now(&clock).unwrap_or_default());
    let files = FileBroker::new(signer()?);
    Ok((Edge::new(keys.clone(), Broker::Files(Arc::clone(&files)), clock), files))
}

fn key_bytes(number: u8) -> KeyBytes {
    KeyBytes::new([number; 32])
}

/// Returns a signer. The RSA key is generated once per process because generation is slow.
///
/// # Errors
/// If the key cannot be generated.
pub(crate) fn signer() -> anyhow::Result<Signer> {
    static KEY: OnceLock<Option<(Vec<u8>, Vec<u8>)>> = OnceLock::new();
    let made = KEY.get_or_init(|| {
        let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).ok()?;
        let certificate = rcgen::CertificateParams::default().self_signed(&key).ok()?;
        Some((key.serialize_der(), certificate.der().to_vec()))
    });
    let (key, certificate) = made.as_ref().context("cannot generate the signing key")?;
    Ok(Signer::new(key, certificate)?)
}

/// A temporary directory with a copy of `/proc/net/tcp`. Dropping it removes the directory.
struct SocketTable(PathBuf);

impl SocketTable {
    /// Creates a table with one connection of a process of `user`. Returns it with the addresses of the connection.
    fn with(user: u32) -> anyhow::Result<(Self, SocketPair)> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let table = Self(std::env::temp_dir().join(format!("podmeta-sockets-{}-{number}", std::process::id())));
        std::fs::create_dir_all(&table.0)?;
        // The kernel writes addresses in native byte order.
        let encode = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let (pod, service) = ([10, 0, 1, 23], [169, 254, 169, 254]);
        let (pod_hex, service_hex) = (encode(pod), encode(service));
        let text = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: {pod_hex}:C350 {service_hex}:0050 01 00000000:00000000 00:00000000 00000000 {user:>5} 0 2 1 0 20 4 30 10 -1\n"
        );
        std::fs::write(table.0.join("tcp"), text)?;
        let (remote, local) = (SocketAddr::from((pod, 50_000)), SocketAddr::from((service, 80)));
        let peer = SocketPair { remote, local, tables: table.0.as_path().into() };
        Ok((table, peer))
    }
}

impl Drop for SocketTable {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
