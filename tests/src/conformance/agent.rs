//! The agent that a case talks to: the edge of the real one, over objects, keys and a clock that the case holds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use podmeta_metadata::compile::Settings;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::request::Family;
use podmeta_metadata::session::{KeyBytes, Keyring};
use podmeta_metadata::signature::Signer;
use podmeta_node_agent::broker::Broker;
use podmeta_node_agent::dev::files::Text;
use podmeta_node_agent::dev::world::World;
use podmeta_node_agent::edge::{Arrival, Edge, Peer, Server};
use tokio_util::sync::CancellationToken;

use super::case::Restart;
use super::objects::Objects;
use super::wire::{Connection, pipe};

/// When every case starts: 2026-01-05T08:22:00Z.
const START: i64 = 1_767_601_320;

/// An agent.
pub(super) struct Agent {
    edge: Arc<Edge>,
    keys: Keyring,
    made_keys: u8,
    clock: Arc<AtomicI64>,
    objects: Objects,
    /// The UID that each pod had last, so that a pod that is gone still has a link.
    uids: BTreeMap<String, PodUid>,
}

impl Agent {
    /// An agent with these objects.
    pub(super) fn start(objects: Objects) -> anyhow::Result<Self> {
        let clock = Arc::new(AtomicI64::new(START));
        let keys = Keyring::new(key_bytes(1), now(&clock)?);
        let edge = edge(&keys, &clock)?;
        let mut agent = Self { edge, keys, made_keys: 1, clock, objects, uids: BTreeMap::new() };
        agent.publish()?;
        Ok(agent)
    }

    /// Changes the objects.
    pub(super) fn change(&mut self, patches: &[serde_json::Value]) -> anyhow::Result<()> {
        self.objects.patch(patches)?;
        self.publish()
    }

    /// Starts anew, with the keys as a file has them or with new ones.
    pub(super) fn restart(&mut self, how: Restart) -> anyhow::Result<()> {
        self.keys = match how {
            Restart::SameKeys => Keyring::from_json(&self.keys.to_json()?)?,
            Restart::NewKeys => Keyring::new(self.next_key(), now(&self.clock)?),
        };
        self.edge = edge(&self.keys, &self.clock)?;
        self.publish()
    }

    /// Replaces the session key.
    pub(super) fn rotate(&mut self) -> anyhow::Result<()> {
        let key = self.next_key();
        self.keys = self.keys.rotated(key, now(&self.clock)?);
        self.edge.set_keys(self.keys.clone());
        Ok(())
    }

    /// Moves the clock. Forward, the time of connections and limits moves too.
    pub(super) async fn wait(&self, seconds: i64) {
        self.clock.fetch_add(seconds, Ordering::Relaxed);
        if let Ok(seconds) = u64::try_from(seconds) {
            tokio::time::sleep(std::time::Duration::from_secs(seconds)).await;
        }
    }

    /// A connection on the link of a pod.
    pub(super) fn connect(
        &self,
        pod: &str,
        dialect: Dialect,
        family: Family,
        user: Option<u32>,
    ) -> anyhow::Result<Connection> {
        let uid = self.uids.get(pod).with_context(|| format!("there is no pod {pod}"))?.clone();
        let peer = user.map(peer).transpose()?;
        let (connection, edge_end) = pipe();
        let server = Server::new(Arc::clone(&self.edge), CancellationToken::new());
        let arrival = Arrival { pod: uid, dialect, family, peer };
        tokio::spawn(async move { server.serve(edge_end, arrival).await });
        Ok(connection)
    }

    fn next_key(&mut self) -> KeyBytes {
        self.made_keys += 1;
        key_bytes(self.made_keys)
    }

    /// Gives the edge what the objects say, as `dev` does after a change of its files.
    fn publish(&mut self) -> anyhow::Result<()> {
        let text = Text { name: "objects".to_owned(), text: self.objects.yaml() };
        let mut world = match World::read(&[text], now(&self.clock)?, &Settings::default()) {
            Ok(world) => world,
            Err(problems) => {
                let problems = problems.iter().map(|problem| format!("{problem:?}")).collect::<Vec<_>>();
                bail!("the objects are wrong: {}", problems.join("; "));
            }
        };
        world.secrets.retain(|key, _| !self.objects.is_lost(key));
        self.uids.extend(world.pods.iter().map(|(name, pod)| (name.clone(), pod.uid.clone())));
        self.edge.broker().set_secrets(world.secrets);
        self.edge.publish(world.pods.into_values().map(|pod| (pod.uid, pod.view)));
        Ok(())
    }
}

fn now(clock: &AtomicI64) -> anyhow::Result<Timestamp> {
    Ok(Timestamp::from_second(clock.load(Ordering::Relaxed))?)
}

fn edge(keys: &Keyring, clock: &Arc<AtomicI64>) -> anyhow::Result<Arc<Edge>> {
    let clock = Arc::clone(clock);
    let clock = Arc::new(move || now(&clock).unwrap_or_default());
    Ok(Edge::new(keys.clone(), Broker::new(signer()?), clock))
}

fn key_bytes(number: u8) -> KeyBytes {
    KeyBytes::new([number; 32])
}

/// A signer; the key is made once, because making one takes long.
fn signer() -> anyhow::Result<Signer> {
    static KEY: OnceLock<Option<(Vec<u8>, Vec<u8>)>> = OnceLock::new();
    let made = KEY.get_or_init(|| {
        let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).ok()?;
        let certificate = rcgen::CertificateParams::default().self_signed(&key).ok()?;
        Some((key.serialize_der(), certificate.der().to_vec()))
    });
    let (key, certificate) = made.as_ref().context("no key could be made")?;
    Ok(Signer::new(key, certificate)?)
}

/// The two ends of a connection of a user's process, with a kernel's table that says whose it is.
fn peer(user: u32) -> anyhow::Result<Peer> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let sockets: PathBuf = std::env::temp_dir().join(format!("podmeta-sockets-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&sockets)?;
    // 127.0.0.1 in the machine's byte order, as the kernel writes it.
    let loopback = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
    let table = format!(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
         0: {loopback}:C350 {loopback}:0050 01 00000000:00000000 00:00000000 00000000 {user:>5} 0 2 1 0 20 4 30 10 -1\n"
    );
    std::fs::write(sockets.join("tcp"), table)?;
    let end = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Ok(Peer { remote: end(50_000), local: end(80), sockets })
}
