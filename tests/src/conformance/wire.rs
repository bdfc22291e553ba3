//! One connection to the edge, without a socket: a pipe that remembers the hop limits that were set on it, and what came
//! back, taken apart by a reader that forgives nothing.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use podmeta_metadata::request::Family;
use podmeta_node_agent::edge::SetHopLimit;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::time::timeout;

/// More than any case sends or gets.
const PIPE_BYTES: usize = 1 << 20;

/// The longest that a response is waited for. It is time of the paused clock: nobody sleeps.
const PATIENCE: Duration = Duration::from_secs(5);

/// After the last response that is due: whatever the edge does of itself, it does before this is over.
const QUIET: Duration = Duration::from_millis(1);

/// The hop limits that were set, each with the number of bytes that were written before.
#[derive(Clone, Debug, Default)]
struct Hops(Arc<Mutex<Vec<(usize, u8)>>>);

/// The edge's end of a pipe.
#[derive(Debug)]
pub(crate) struct EdgeEnd {
    io: DuplexStream,
    written: Mutex<usize>,
    hops: Hops,
}

/// The pod's end.
#[derive(Debug)]
pub(crate) struct Connection {
    io: DuplexStream,
    read: usize,
    hops: Hops,
    closed: bool,
}

/// A response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) head: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The hop limit that held when its first byte was written; 0 if none was set.
    pub(super) hop_limit: u8,
}

/// What came back for what was sent.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) responses: Vec<Response>,
    pub(super) closed: bool,
}

/// A new pipe: the pod's end and the edge's.
pub(crate) fn pipe() -> (Connection, EdgeEnd) {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let hops = Hops::default();
    let connection = Connection { io: near, read: 0, hops: hops.clone(), closed: false };
    (connection, EdgeEnd { io: far, written: Mutex::new(0), hops })
}

impl Connection {
    /// Sends bytes and reads the responses, `due` of them. Any more are read too.
    pub(super) async fn exchange(&mut self, bytes: &[u8], due: usize) -> anyhow::Result<Exchange> {
        let is_head = bytes.starts_with(b"HEAD ");
        if self.io.write_all(bytes).await.is_err() {
            self.closed = true;
        }
        let (mut responses, mut unread) = (Vec::new(), Vec::new());
        while !self.closed {
            let patience = if responses.len() < due { PATIENCE } else { QUIET };
            let mut chunk = [0; 16 * 1024];
            match timeout(patience, self.io.read(&mut chunk)).await {
                Err(_) => break,
                Ok(Err(_) | Ok(0)) => self.closed = true,
                Ok(Ok(length)) => unread.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            }
            while let Some((mut response, length)) = parse(&unread, is_head)? {
                response.hop_limit = self.hops.at(self.read);
                self.read += length;
                unread.drain(..length);
                if response.status != 100 {
                    responses.push(response);
                }
            }
        }
        ensure!(unread.is_empty(), "this is no response: {:?}", String::from_utf8_lossy(&unread));
        Ok(Exchange { responses, closed: self.closed })
    }

    /// Sends bytes and gives all that comes until the edge closes, which may be before it has read them all.
    pub(crate) async fn until_closed(mut self, bytes: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        drop(self.io.write_all(bytes).await);
        drop(self.io.read_to_end(&mut answer).await);
        answer
    }
}

/// Takes one response off the front of what was read; `None` if it is not all there.
fn parse(bytes: &[u8], is_head: bool) -> anyhow::Result<Option<(Response, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default()).context("the head is not UTF-8")?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    ensure!(!head.replace("\r\n", "").contains(['\r', '\n']), "the head has a bare CR or LF: {head:?}");
    let rest = status_line.strip_prefix("HTTP/1.1 ").or_else(|| status_line.strip_prefix("HTTP/1.0 "));
    let (status, reason) = rest.and_then(|rest| rest.split_once(' ')).with_context(|| status_line.to_owned())?;
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let headers = lines.map(|line| header(line).with_context(|| format!("no header: {line:?}")));
    let headers = headers.collect::<anyhow::Result<Vec<_>>>()?;
    let mut response = Response {
        status: status.parse().context("the status is no number")?,
        reason: reason.to_owned(),
        head: head.to_owned(),
        headers,
        body: Vec::new(),
        hop_limit: 0,
    };
    ensure!(response.header("transfer-encoding").is_none(), "it has a Transfer-Encoding");
    let length = match response.header("content-length") {
        _ if response.status == 100 => 0,
        Some(length) => length.parse().context("its Content-Length is no number")?,
        None => bail!("it has no Content-Length"),
    };
    let start = end + 4;
    let sent = if is_head { 0 } else { length };
    let Some(body) = bytes.get(start..start + sent) else { return Ok(None) };
    response.body = body.to_vec();
    Ok(Some((response, start + sent)))
}

impl Response {
    /// The value of a header that stands once.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value),
            (Some(_), Some(_)) => Some("(twice)"),
            (None, _) => None,
        }
    }
}

impl Hops {
    fn at(&self, written: usize) -> u8 {
        let set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        set.iter().rfind(|(before, _)| *before <= written).map_or(0, |(_, hops)| *hops)
    }
}

impl SetHopLimit for EdgeEnd {
    fn set_hop_limit(&self, _: Family, hops: u8) -> io::Result<()> {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        self.hops.0.lock().unwrap_or_else(PoisonError::into_inner).push((written, hops));
        Ok(())
    }
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
