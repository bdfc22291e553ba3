//! The floor: a bare hyper server that returns an answer as it was recorded, by path. Nothing that serves HTTP with hyper
//! can be faster than this by much.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
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

/// How connections are spread over threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arrangement {
    /// One thread that does all.
    CurrentThread,
    /// Tokio's own scheduler with one worker.
    OneWorker,
    /// Tokio's own scheduler with two workers that take work from each other.
    TwoWorkers,
    /// Two threads that share nothing; the kernel gives each connection to one of them (`SO_REUSEPORT`).
    ReusePort,
}

impl Arrangement {
    /// The name on the command line.
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

/// An answer as it was recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// The path that gets it.
    pub(crate) path: String,
    /// Its headers.
    pub(crate) headers: Vec<(String, String)>,
    /// Its body.
    pub(crate) body: String,
}

type Answers = Arc<HashMap<String, (HeaderMap, Bytes)>>;

/// Serves the answers that stand as JSON on standard input, prints its address, and ends when it is killed.
///
/// # Errors
/// If it cannot listen, or what it is given are no answers.
pub(crate) fn main(arrangement: Arrangement) -> Result<()> {
    let recorded: Vec<Recorded> = serde_json::from_reader(std::io::stdin().lock())?;
    let mut answers = HashMap::new();
    for answer in recorded {
        let mut headers = HeaderMap::new();
        for (name, value) in &answer.headers {
            headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        answers.insert(answer.path, (headers, Bytes::from(answer.body)));
    }
    let answers = Arc::new(answers);
    let listener = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    println!("{address}");
    let multi = |workers| tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let current = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    match arrangement {
        Arrangement::CurrentThread => current()?.block_on(serve(listener, answers)),
        // Spawned, so that it runs on a worker and not on the thread that waits for it.
        Arrangement::OneWorker => multi(1)?.block_on(async { tokio::spawn(serve(listener, answers)).await? }),
        Arrangement::TwoWorkers => multi(2)?.block_on(async { tokio::spawn(serve(listener, answers)).await? }),
        Arrangement::ReusePort => {
            let (second, others) = (self::listener(address)?, Arc::clone(&answers));
            let runtime = current()?;
            let thread = std::thread::spawn(move || runtime.block_on(serve(second, others)));
            current()?.block_on(serve(listener, answers))?;
            thread.join().ok().context("a thread of the floor panicked")?
        }
    }
}

fn listener(address: SocketAddr) -> Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn serve(listener: std::net::TcpListener, answers: Answers) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answers = Arc::clone(&answers);
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer(&answers, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new().title_case_headers(true).serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move { drop(connection.await) });
    }
}

fn answer(answers: &Answers, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    match answers.get(request.uri().path()) {
        Some((headers, body)) => {
            *response.headers_mut() = headers.clone();
            *response.body_mut() = Full::new(body.clone());
        }
        None => *response.status_mut() = http::StatusCode::NOT_FOUND,
    }
    response
}
