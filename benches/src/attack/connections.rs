//! Connections of attackers. Each function keeps them open until `over` is true.

use std::io::Write as _;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use socket2::{Domain, Socket, Type};

/// Interval at which closed connections are replaced.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Number of connections that are checked without a pause. A check of all connections without a pause would delay the measured
/// client, which runs on the same processors.
const CONNECTIONS_PER_CHECK: usize = 32;

/// Opens connections of each pod, which send the pod's bytes and read nothing. Replaces each one that the server closes.
pub(super) fn hold(pods: &[(SocketAddr, Vec<u8>)], connections: usize, over: &AtomicBool) -> Result<()> {
    let open = |pod: SocketAddr, bytes: &[u8]| {
        let socket = Socket::new(Domain::for_address(pod), Type::STREAM, None)?;
        socket.set_recv_buffer_size(4096)?;
        socket.connect(&pod.into())?;
        socket.set_nonblocking(true)?;
        drop((&socket).write(bytes)); // fails if the agent closed the connection
        anyhow::Ok(socket)
    };
    let is_open = |socket: &Socket| {
        let is_end = |read: std::io::Result<usize>| read.is_ok_and(|bytes| bytes == 0);
        socket.take_error().is_ok_and(|error| error.is_none()) && !is_end(socket.peek(&mut [MaybeUninit::uninit()]))
    };
    let mut held = Vec::new();
    for (pod, bytes) in pods {
        for _ in 0..connections {
            held.push((*pod, bytes, open(*pod, bytes)?));
        }
    }
    let pause = CHECK_INTERVAL / u32::try_from(held.len().div_ceil(CONNECTIONS_PER_CHECK))?.max(1);
    while !over.load(Ordering::Relaxed) {
        for connections in held.chunks_mut(CONNECTIONS_PER_CHECK) {
            let next = Instant::now() + pause;
            for (pod, bytes, socket) in connections {
                if !is_open(socket) {
                    *socket = open(*pod, bytes)?;
                }
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    Ok(())
}

/// Opens connections of each pod, and sends one byte of a request head per second on each.
pub(super) fn send_slow_heads(pods: &[SocketAddr], connections: usize, over: &AtomicBool) -> Result<()> {
    let mut streams = Vec::new();
    for pod in pods {
        for _ in 0..connections {
            let mut stream = TcpStream::connect(pod)?;
            stream.write_all(b"GET /latest/ HTTP/1.1\r\nX-Slow: ")?;
            streams.push(stream);
        }
    }
    while !over.load(Ordering::Relaxed) {
        let next = Instant::now() + Duration::from_secs(1);
        for stream in &mut streams {
            drop(stream.write(b"a")); // fails if the agent closed the connection
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}
