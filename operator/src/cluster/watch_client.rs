//! The client of watches. Its connections are silent for as long as nothing changes, so it detects dead ones itself.

use std::time::Duration;

use anyhow::Result;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use super::watch::WATCH_TIMEOUT_SECONDS;

/// Time without a packet after which the kernel sends a TCP keepalive probe.
const KEEPALIVE_TIME: Duration = Duration::from_secs(10);

/// Interval of further probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Number of probes without a response after which the connection is dead.
const KEEPALIVE_PROBES: u32 = 2;

/// Timeout of a read. A watch without changes ends before it. Keepalive probes do not detect an API server that hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(WATCH_TIMEOUT_SECONDS as u64 + 15);

/// Returns a client for watches. A connection whose packets get lost ends within 20 seconds. Nodes lose the connections of pods to
/// Services when their nftables rules are flushed: without the address translation, the API server's packets are reset, and those of
/// the pod are dropped. The client does not retry: the watches do.
///
/// # Errors
/// If the configuration contains invalid TLS data or credentials.
pub fn watch_client(config: Config) -> Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(KEEPALIVE_TIME));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(Some(READ_TIMEOUT));
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(true);
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use kube::api::{Api, ListParams};
    use tokio::net::TcpListener;

    use super::*;

    /// States and timers of sockets in `/proc/net/tcp`: an established connection with a keepalive timer.
    const ESTABLISHED: &str = "01";
    const KEEPALIVE_TIMER: &str = "02:";

    /// Returns true if the connection between two ports of this host has a keepalive timer.
    fn has_keepalive_timer(local: u16, remote: u16) -> bool {
        let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
        let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
            fields[1].ends_with(&local)
                && fields[2].ends_with(&remote)
                && fields[3] == ESTABLISHED
                && fields[5].starts_with(KEEPALIVE_TIMER)
        })
    }

    #[tokio::test]
    async fn silent_connection_has_a_keepalive_timer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let client = watch_client(Config::new(format!("http://{server}").parse().unwrap())).unwrap();
        let watch = tokio::spawn(async move { Api::<Node>::all(client).list(&ListParams::default()).await });
        let (_connection, address) = listener.accept().await.unwrap();
        let wait = async {
            while !has_keepalive_timer(address.port(), server.port()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
        watch.abort();
    }
}
