//! A stub of the cloud providers' metadata services (IMDS), at their addresses behind the nodes' uplink.
//!
//! It returns the same body for every request and counts requests by source address, so that tests detect requests that
//! reach the provider.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::extract::{ConnectInfo, State};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::layout::{IMDS_STUB_COUNTS_PORT, METADATA_ADDRESSES};

/// The body of every response.
pub const RESPONSE_BODY: &str = "IMDS-STUB";

/// Number of requests by source address.
pub type RequestCounts = BTreeMap<IpAddr, u64>;

type SharedCounts = Arc<Mutex<RequestCounts>>;

/// Serves until the process is killed.
///
/// # Errors
/// If it cannot listen on an address.
pub async fn serve() -> Result<()> {
    let counts = SharedCounts::default();
    let metadata = Router::new().fallback(respond).with_state(Arc::clone(&counts));
    let counts = Router::new().route("/requests", get(request_counts)).with_state(counts);
    let mut servers = tokio::task::JoinSet::new();
    for address in METADATA_ADDRESSES {
        let listener = listen(address.parse()?, 80).await?;
        let service = metadata.clone().into_make_service_with_connect_info::<SocketAddr>();
        servers.spawn(async move { axum::serve(listener, service).await });
    }
    let listener = listen(Ipv4Addr::UNSPECIFIED.into(), IMDS_STUB_COUNTS_PORT).await?;
    servers.spawn(async move { axum::serve(listener, counts).await });
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    Ok(())
}

async fn listen(address: IpAddr, port: u16) -> Result<TcpListener> {
    let socket = SocketAddr::new(address, port);
    TcpListener::bind(socket).await.with_context(|| format!("cannot listen on {socket}"))
}

async fn respond(State(counts): State<SharedCounts>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> &'static str {
    *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(peer.ip().to_canonical()).or_default() += 1;
    RESPONSE_BODY
}

async fn request_counts(State(counts): State<SharedCounts>) -> Json<RequestCounts> {
    Json(counts.lock().unwrap_or_else(PoisonError::into_inner).clone())
}
