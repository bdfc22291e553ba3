//! What stands where the clouds' metadata services stand, behind the nodes' uplink. It answers `REAL-IMDS` to everything, so
//! that a test sees when somebody reaches it, and counts who asked.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::extract::{ConnectInfo, State};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::layout::{ASKED_PORT, METADATA};

/// What it answers.
pub const ANSWER: &str = "REAL-IMDS";

/// How many requests came from each address.
pub type Asked = BTreeMap<IpAddr, u64>;

type Shared = Arc<Mutex<Asked>>;

/// Serves until it is killed.
///
/// # Errors
/// If an address cannot be listened at.
pub async fn serve() -> Result<()> {
    let asked = Shared::default();
    let metadata = Router::new().fallback(answer).with_state(Arc::clone(&asked));
    let counts = Router::new().route("/asked", get(counts)).with_state(asked);
    let mut servers = tokio::task::JoinSet::new();
    for address in METADATA {
        let listener = listen(address.parse()?, 80).await?;
        let service = metadata.clone().into_make_service_with_connect_info::<SocketAddr>();
        servers.spawn(async move { axum::serve(listener, service).await });
    }
    let listener = listen(Ipv4Addr::UNSPECIFIED.into(), ASKED_PORT).await?;
    servers.spawn(async move { axum::serve(listener, counts).await });
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    Ok(())
}

async fn listen(address: IpAddr, port: u16) -> Result<TcpListener> {
    let socket = SocketAddr::new(address, port);
    TcpListener::bind(socket).await.with_context(|| format!("cannot listen at {socket}"))
}

async fn answer(State(asked): State<Shared>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> &'static str {
    *asked.lock().unwrap_or_else(PoisonError::into_inner).entry(peer.ip().to_canonical()).or_default() += 1;
    ANSWER
}

async fn counts(State(asked): State<Shared>) -> Json<Asked> {
    Json(asked.lock().unwrap_or_else(PoisonError::into_inner).clone())
}
