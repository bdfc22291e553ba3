//! One connection to the edge over an in-memory pipe instead of a socket. The pipe records the hop limits that the edge
//! sets. The response parser is strict.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use podmeta_metadata::request::IpFamily;
use podmeta_node_agent::edge::{SendBuffer, SetHopLimit};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::time::timeout;

/// Capacity of the pipe. Larger than the data of any case.
const PIPE_BYTES: usize = 1 << 20;

/// Timeout of one response, in time of the paused clock.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time to read after the last expected response, to detect extra responses and a close by the edge.
const SETTLE_TIME: Duration = Duration::from_millis(1);

/// Hop limits that the edge set, each with the number of bytes written before.
#[derive(Clone, Debug, Default)]
struct HopLimitLog(Arc<Mutex<Vec<(usize, u8)>>>);

/// The edge's end of the pipe.
#[derive(Debug)]
pub(crate) struct EdgeEnd {
    io: DuplexStream,
    written: Mutex<usize>,
    hop_limits: HopLimitLog,
}

/// The pod's end of the pipe.
#[derive(Debug)]
pub(crate) struct PipeConnection {
    io: DuplexStream,
    read: usize,
    hop_limits: HopLimitLog,
    closed: bool,
}

/// A parsed HTTP response.
#[derive(Debug)]
pub(super) struct WireResponse {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) head: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The hop limit in effect at the first byte of the response, or 0 if none was set.
    pub(super) hop_limit: u8,
}

/// The result of one exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) responses: Vec<WireResponse>,
    pub(super) closed: bool,
}

/// Creates a pipe. Returns the pod's end and the edge's end.
pub(crate) fn pipe() -> (PipeConnection, EdgeEnd) {
    let (pod_end, edge_end) = tokio::io::duplex(PIPE_BYTES);
    let hop_limits = HopLimitLog::default();
    let connection = PipeConnection { io: pod_end, read: 0, hop_limits: hop_limits.clone(), closed: false };
    (connection, EdgeEnd { io: edge_end, written: Mutex::new(0), hop_limits })
}

impl PipeConnection {
    /// Sends bytes and reads `expected` responses, and any further ones that arrive within [`SETTLE_TIME`].
    pub(super) async fn exchange(&mut self, bytes: &[u8], expected: usize) -> anyhow::Result<Exchange> {
        let is_head = bytes.starts_with(b"HEAD ");
        if self.io.write_all(bytes).await.is_err() {
            self.closed = true;
        }
        let (mut responses, mut unread) = (Vec::new(), Vec::new());
        while !self.closed {
            let read_timeout = if responses.len() < expected { RESPONSE_TIMEOUT } else { SETTLE_TIME };
            let mut chunk = [0; 16 * 1024];
            match timeout(read_timeout, self.io.read(&mut chunk)).await {
                Err(_) => break,
                Ok(Err(_) | Ok(0)) => self.closed = true,
                Ok(Ok(length)) => unread.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            }
            while let Some((mut response, length)) = parse(&unread, is_head)? {
                response.hop_limit = self.hop_limits.at(self.read);
                self.read += length;
                unread.drain(..length);
                if response.status != 100 {
                    responses.push(response);
                }
            }
        }
        ensure!(unread.is_empty(), "incomplete response: {:?}", String::from_utf8_lossy(&unread));
        Ok(Exchange { responses, closed: self.closed })
    }

    /// Sends bytes and returns everything received until the edge closes. The edge may close before it read all bytes.
    pub(crate) async fn until_closed(mut self, bytes: &[u8]) -> Vec<u8> {
        let mut received = Vec::new();
        drop(self.io.write_all(bytes).await);
        drop(self.io.read_to_end(&mut received).await);
        received
    }
}

/// Parses the first response of `bytes`. Returns it with its length, or `None` if it is incomplete.
fn parse(bytes: &[u8], is_head: bool) -> anyhow::Result<Option<(WireResponse, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default()).context("the head is not UTF-8")?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    ensure!(!head.replace("\r\n", "").contains(['\r', '\n']), "the head has a bare CR or LF: {head:?}");
    let rest = status_line.strip_prefix("HTTP/1.1 ").or_else(|| status_line.strip_prefix("HTTP/1.0 "));
    let (status, reason) = rest.and_then(|rest| rest.split_once(' ')).with_context(|| status_line.to_owned())?;
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let headers = lines.map(|line| header(line).with_context(|| format!("invalid header: {line:?}")));
    let headers = headers.collect::<anyhow::Result<Vec<_>>>()?;
    let mut response = WireResponse {
        status: status.parse().context("the status is not a number")?,
        reason: reason.to_owned(),
        head: head.to_owned(),
        headers,
        body: Vec::new(),
        hop_limit: 0,
    };
    ensure!(response.header("transfer-encoding").is_none(), "the response has a Transfer-Encoding");
    let length = match response.header("content-length") {
        _ if response.status == 100 => 0,
        Some(length) => length.parse().context("the Content-Length is not a number")?,
        None => bail!("the response has no Content-Length"),
    };
    let start = end + 4;
    let sent = if is_head { 0 } else { length };
    let Some(body) = bytes.get(start..start + sent) else { return Ok(None) };
    response.body = body.to_vec();
    Ok(Some((response, start + sent)))
}

impl WireResponse {
    /// Returns the value of a header, or `(twice)` if the header is repeated.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value),
            (Some(_), Some(_)) => Some("(twice)"),
            (None, _) => None,
        }
    }
}

impl HopLimitLog {
    fn at(&self, written: usize) -> u8 {
        let set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        set.iter().rfind(|(before, _)| *before <= written).map_or(0, |(_, hop_limits)| *hop_limits)
    }
}

impl SetHopLimit for EdgeEnd {
    fn set_hop_limit(&self, _: IpFamily, hop_limit: u8) -> io::Result<()> {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        self.hop_limits.0.lock().unwrap_or_else(PoisonError::into_inner).push((written, hop_limit));
        Ok(())
    }
}

impl SendBuffer for EdgeEnd {
    fn buffered_bytes(&self) -> usize {
        0
    }

    fn reset_on_close(&self) {}
}

impl AsyncRead for EdgeEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for EdgeEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(length)) = written {
            *self.written.lock().unwrap_or_else(PoisonError::into_inner) += length;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
