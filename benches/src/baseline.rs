//! The baseline: a bare hyper server that returns a recorded response for each path. A server that uses hyper cannot be
//! much faster.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::ValueEnum;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

/// Size of the send buffer and of the receive buffer of a connection. Both servers have the same.
const SOCKET_BUFFER_BYTES: usize = 16 * 1024;

/// Distribution of connections over threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ThreadArrangement {
    /// One thread.
    CurrentThread,
    /// tokio's multi-thread scheduler with one worker thread.
    OneWorker,
    /// tokio's multi-thread scheduler with two worker threads and work stealing.
    TwoWorkers,
    /// Two threads with a runtime and a listener each. The kernel distributes connections (`SO_REUSEPORT`).
    ReusePort,
}

impl ThreadArrangement {
    /// Returns the name on the command line.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CurrentThread => "current-thread",
            Self::OneWorker => "one-worker",
            Self::TwoWorkers => "two-workers",
            Self::ReusePort => "reuse-port",
        }
    }
}

/// A recorded response with status 200.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RecordedResponse {
    /// Request path.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

type RecordedResponses = Arc<HashMap<String, (HeaderMap, Bytes)>>;

/// Reads recorded responses as JSON from standard input, listens, prints its address, and serves until it is killed. On an
/// IPv6 address it serves IPv4 too.
///
/// # Errors
/// If the input is invalid or the listener cannot be opened.
pub(crate) fn main(arrangement: ThreadArrangement, listen: SocketAddr) -> Result<()> {
    let recorded: Vec<RecordedResponse> = serde_json::from_reader(std::io::stdin().lock())?;
    let mut responses = HashMap::new();
    for response in recorded {
        let mut headers = HeaderMap::new();
        for (name, value) in &response.headers {
            headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        responses.insert(response.path, (headers, Bytes::from(response.body)));
    }
    let responses = Arc::new(responses);
    let listener = listener(listen)?;
    let address = listener.local_addr()?;
    println!("{address}");
    let multi = |workers| tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let current = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    match arrangement {
        ThreadArrangement::CurrentThread => current()?.block_on(serve(listener, responses)),
        // Spawned, because `block_on` runs its future on the calling thread, not on a worker.
        ThreadArrangement::OneWorker => multi(1)?.block_on(async { tokio::spawn(serve(listener, responses)).await? }),
        ThreadArrangement::TwoWorkers => multi(2)?.block_on(async { tokio::spawn(serve(listener, responses)).await? }),
        ThreadArrangement::ReusePort => {
            let (second, others) = (self::listener(address)?, Arc::clone(&responses));
            let runtime = current()?;
            let thread = std::thread::spawn(move || runtime.block_on(serve(second, others)));
            current()?.block_on(serve(listener, responses))?;
            thread.join().ok().context("a thread of the baseline panicked")?
        }
    }
}

fn listener(address: SocketAddr) -> Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?; // as the agent does
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn serve(listener: std::net::TcpListener, responses: RecordedResponses) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let responses = Arc::clone(&responses);
        let service = service_fn(move |request: Request<Incoming>| {
            let response = response(&responses, &request);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new().title_case_headers(true).serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move { drop(connection.await) });
    }
}

fn response(responses: &RecordedResponses, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    match responses.get(request.uri().path()) {
        Some((headers, body)) => {
            *response.headers_mut() = headers.clone();
            *response.body_mut() = Full::new(body.clone());
        }
        None => *response.status_mut() = http::StatusCode::NOT_FOUND,
    }
    response
}
