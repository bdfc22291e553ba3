//! An HTTP client of a service address: blocking, and with no more of HTTP/1.1 than the tests need.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use podmeta_link::service::SERVICE_PORT;

/// Path of the instance ID, in both dialects.
pub(crate) const INSTANCE_ID: &str = "/latest/meta-data/instance-id";

/// Timeout of a connection, and of a response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A persistent connection.
pub(crate) struct PodConnection(TcpStream);

impl PodConnection {
    /// Connects from the network namespace of the calling thread.
    pub(crate) fn connect(address: IpAddr) -> io::Result<Self> {
        Self::connect_within(address, TIMEOUT)
    }

    /// Connects from the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the connection is not there after `timeout`.
    pub(crate) fn connect_within(address: IpAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&(address, SERVICE_PORT).into(), timeout)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Requests a path. Returns the status and the body.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        write!(self.0, "GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")?;
        let mut text = Vec::new();
        loop {
            let mut buffer = [0; 2048];
            let read = self.0.read(&mut buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            text.extend_from_slice(&buffer[..read]);
            if let Some(response) = parse(&String::from_utf8_lossy(&text)) {
                return Ok(response);
            }
        }
    }
}

impl From<TcpStream> for PodConnection {
    fn from(stream: TcpStream) -> Self {
        Self(stream)
    }
}

/// Returns `None` if the response is incomplete.
fn parse(text: &str) -> Option<(u16, String)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse::<usize>().ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    (body.len() >= length).then(|| (status, body[..length].to_owned()))
}
