//! Load generator: connections that send a request, wait for the complete response, and repeat. It shares the processors
//! with the measured server, so it parses no more of a response than its status and its length.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Maximum size of a response.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The requests that a client repeats.
#[derive(Clone, Debug)]
pub(crate) enum RequestPattern {
    /// One request on a persistent connection.
    Persistent(Vec<u8>),
    /// A token PUT, then a GET with the token, each on a new connection.
    TokenThenGet {
        /// The token request.
        put: Vec<u8>,
        /// The GET request up to the value of the token header.
        get: Vec<u8>,
    },
}

/// Result of a load.
#[derive(Debug)]
pub(crate) struct LoadResult {
    /// Time from the first request to the last response.
    pub(crate) elapsed: Duration,
    /// Nanoseconds of each completed request pattern.
    pub(crate) latencies: Histogram<u64>,
    /// Number of responses with a status other than 200.
    pub(crate) rejected: u64,
}

impl LoadResult {
    /// Returns the completed request patterns per second.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Returns a quantile of the latencies in microseconds.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "latencies are far below 2^52 ns")]
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Loads a server from the current thread for `time`. Each connection starts a pattern at most once per `interval`.
///
/// # Errors
/// If a connection fails, or a response has no `Content-Length`.
pub(crate) fn load(
    address: SocketAddr,
    pattern: &RequestPattern,
    connections: usize,
    time: Duration,
    interval: Duration,
) -> Result<LoadResult> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        let started = Instant::now();
        for _ in 0..connections {
            clients.spawn(client(address, pattern.clone(), started + time, interval));
        }
        let mut all = LoadResult { elapsed: Duration::ZERO, latencies: histogram()?, rejected: 0 };
        while let Some(ended) = clients.join_next().await {
            let (latencies, rejected) = ended??;
            all.latencies.add(latencies)?;
            all.rejected += rejected;
        }
        all.elapsed = started.elapsed();
        Ok(all)
    })
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

async fn client(
    address: SocketAddr,
    pattern: RequestPattern,
    end: Instant,
    interval: Duration,
) -> Result<(Histogram<u64>, u64)> {
    let (mut latencies, mut rejected) = (histogram()?, 0);
    let mut kept = None;
    let mut next = Instant::now();
    loop {
        if !interval.is_zero() {
            tokio::time::sleep_until(next.into()).await;
            next += interval;
        }
        let started = Instant::now();
        if started >= end {
            return Ok((latencies, rejected));
        }
        let status = match &pattern {
            RequestPattern::Persistent(request) => {
                let connection = match kept.take() {
                    Some(connection) => connection,
                    None => LoadConnection::open(address).await?,
                };
                let connection = kept.insert(connection);
                let response = connection.send(request).await?;
                response.status
            }
            RequestPattern::TokenThenGet { put, get } => {
                let mut connection = LoadConnection::open(address).await?;
                let response = connection.send(put).await?;
                let token = connection.body(&response).to_vec();
                let mut request = get.clone();
                request.extend_from_slice(&token);
                request.extend_from_slice(b"\r\nConnection: close\r\n\r\n");
                LoadConnection::open(address).await?.send(&request).await?.status
            }
        };
        latencies.saturating_record(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        rejected += u64::from(status != 200);
    }
}

/// A client connection with the bytes of its last response.
#[derive(Debug)]
pub(crate) struct LoadConnection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Status of a response and the positions of its head and body in the buffer.
#[derive(Debug)]
pub(crate) struct ResponseLayout {
    pub(crate) status: u16,
    head: usize,
    end: usize,
}

impl LoadConnection {
    /// Opens a connection.
    ///
    /// # Errors
    /// If the server does not accept the connection.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 4096] })
    }

    /// Sends a request and reads the response.
    ///
    /// # Errors
    /// If the connection closes early, or the response is too large or has no `Content-Length`.
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<ResponseLayout> {
        self.stream.write_all(request).await?;
        let (mut read, mut ends) = (0, None);
        loop {
            if read == self.buffer.len() {
                ensure!(read < MAX_RESPONSE_BYTES, "the response is longer than {MAX_RESPONSE_BYTES} bytes");
                self.buffer.resize(read * 2, 0);
            }
            let more = self.stream.read(self.buffer.get_mut(read..).unwrap_or_default()).await?;
            ensure!(more > 0, "the server closed the connection within a response");
            read += more;
            let bytes = self.buffer.get(..read).unwrap_or_default();
            if ends.is_none() {
                ends = end_of(bytes)?;
            }
            match ends {
                Some((head, end)) if end <= read => {
                    let status = bytes.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
                    return Ok(ResponseLayout { status: status.context("the response has no status")?, head, end });
                }
                Some(_) | None => {}
            }
        }
    }

    /// Returns the head of the last response.
    #[must_use]
    pub(crate) fn head(&self, response: &ResponseLayout) -> &[u8] {
        self.buffer.get(..response.head).unwrap_or_default()
    }

    /// Returns the body of the last response.
    #[must_use]
    pub(crate) fn body(&self, response: &ResponseLayout) -> &[u8] {
        self.buffer.get(response.head..response.end).unwrap_or_default()
    }
}

/// Returns the end positions of head and body, or `None` if the head is incomplete.
fn end_of(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    const LENGTH: &[u8] = b"Content-Length: ";
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = bytes.get(..head + 4).unwrap_or_default();
    let at =
        head.windows(LENGTH.len()).position(|window| window == LENGTH).context("the response has no Content-Length")?;
    let digits = head.get(at + LENGTH.len()..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    Ok(Some((head.len(), head.len() + length)))
}
