//! Makes load: a number of connections that ask, wait for the whole answer, and ask again. It reads as little of an answer
//! as it needs to know its end, because what it costs is taken from the server that it measures.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// What a client does again and again.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// One request, on a connection that is kept.
    Kept(Vec<u8>),
    /// A token on a connection of its own, then a request with it on another.
    TokenThenGet {
        /// The request for a token.
        put: Vec<u8>,
        /// The request, up to where the token stands.
        get: Vec<u8>,
    },
}

/// What a load did to a server.
#[derive(Debug)]
pub(crate) struct Load {
    /// Time from the first request to the last answer.
    pub(crate) took: Duration,
    /// Nanoseconds that each round of a client took.
    pub(crate) latencies: Histogram<u64>,
    /// Answers that were not 200.
    pub(crate) refused: u64,
}

impl Load {
    /// Rounds a second.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    /// A quantile of the latencies, in microseconds.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "latencies are far below 2^52 ns")]
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Loads a server from this thread for a time. Each connection begins a round at most once in `pace`.
///
/// # Errors
/// If a connection cannot be made, or an answer does not end as HTTP/1.1 answers do.
pub(crate) fn load(
    address: SocketAddr,
    shape: &Shape,
    connections: usize,
    time: Duration,
    pace: Duration,
) -> Result<Load> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        let started = Instant::now();
        for _ in 0..connections {
            clients.spawn(client(address, shape.clone(), started + time, pace));
        }
        let mut all = Load { took: Duration::ZERO, latencies: histogram()?, refused: 0 };
        while let Some(ended) = clients.join_next().await {
            let (latencies, refused) = ended??;
            all.latencies.add(latencies)?;
            all.refused += refused;
        }
        all.took = started.elapsed();
        Ok(all)
    })
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

async fn client(address: SocketAddr, shape: Shape, end: Instant, pace: Duration) -> Result<(Histogram<u64>, u64)> {
    let (mut latencies, mut refused) = (histogram()?, 0);
    let mut kept = None;
    let mut next = Instant::now();
    loop {
        if !pace.is_zero() {
            tokio::time::sleep_until(next.into()).await;
            next += pace;
        }
        let started = Instant::now();
        if started >= end {
            return Ok((latencies, refused));
        }
        let status = match &shape {
            Shape::Kept(request) => {
                let connection = match kept.take() {
                    Some(connection) => connection,
                    None => Connection::open(address).await?,
                };
                let connection = kept.insert(connection);
                let answer = connection.ask(request).await?;
                answer.status
            }
            Shape::TokenThenGet { put, get } => {
                let mut connection = Connection::open(address).await?;
                let answer = connection.ask(put).await?;
                let token = connection.body(&answer).to_vec();
                let mut request = get.clone();
                request.extend_from_slice(&token);
                request.extend_from_slice(b"\r\nConnection: close\r\n\r\n");
                Connection::open(address).await?.ask(&request).await?.status
            }
        };
        latencies.saturating_record(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        refused += u64::from(status != 200);
    }
}

/// A connection to a server, and the answer that was read last.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Where the parts of an answer are.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    head: usize,
    end: usize,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// If the server does not accept.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 4096] })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// If the connection ends before the answer does, or the answer has no length.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await?;
        let (mut read, mut ends) = (0, None);
        loop {
            if read == self.buffer.len() {
                ensure!(read < MAX_ANSWER, "an answer is longer than {MAX_ANSWER} bytes");
                self.buffer.resize(read * 2, 0);
            }
            let more = self.stream.read(self.buffer.get_mut(read..).unwrap_or_default()).await?;
            ensure!(more > 0, "the server closed the connection in the middle of an answer");
            read += more;
            let bytes = self.buffer.get(..read).unwrap_or_default();
            if ends.is_none() {
                ends = end_of(bytes)?;
            }
            match ends {
                Some((head, end)) if end <= read => {
                    let status = bytes.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
                    return Ok(Answer { status: status.context("an answer has no status")?, head, end });
                }
                Some(_) | None => {}
            }
        }
    }

    /// The head of the answer that was read last.
    #[must_use]
    pub(crate) fn head(&self, answer: &Answer) -> &[u8] {
        self.buffer.get(..answer.head).unwrap_or_default()
    }

    /// The body of the answer that was read last.
    #[must_use]
    pub(crate) fn body(&self, answer: &Answer) -> &[u8] {
        self.buffer.get(answer.head..answer.end).unwrap_or_default()
    }
}

/// Where the head of an answer ends and where its body does; none while the head is not all there.
fn end_of(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    const LENGTH: &[u8] = b"Content-Length: ";
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = bytes.get(..head + 4).unwrap_or_default();
    let at = head.windows(LENGTH.len()).position(|window| window == LENGTH).context("an answer has no length")?;
    let digits = head.get(at + LENGTH.len()..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    Ok(Some((head.len(), head.len() + length)))
}
