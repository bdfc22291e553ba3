//! The owner of a client's socket in the kernel's socket table, for the dev server.
//! Source: proc(5), `/proc/net/tcp`. Addresses are in the machine's byte order, in words of four bytes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use crate::edge::{FindOwner, FindOwnerError};

/// The two ends of a TCP connection, and the kernel's socket table of the client's network namespace.
#[derive(Clone, Debug)]
pub struct SocketPair {
    /// The address of the client.
    pub remote: SocketAddr,
    /// The address of the agent.
    pub local: SocketAddr,
    /// The directory with the tables `tcp` and `tcp6`, such as `/proc/self/net`.
    pub tables: Arc<Path>,
}

impl FindOwner for SocketPair {
    fn find_owner(&self) -> BoxFuture<'_, Result<u32, FindOwnerError>> {
        let sockets = self.clone();
        Box::pin(async move {
            let user = spawn_blocking(move || user_of(&sockets)).await.context("internal error")?;
            let user = user.context("cannot read the kernel's socket table")?;
            user.ok_or(FindOwnerError::NotFound(
                "the kernel's socket table has no open socket of the client".to_owned(),
            ))
        })
    }
}

/// Returns the user ID that owns the client's socket, or `None` if it is not found. Blocks.
fn user_of(sockets: &SocketPair) -> io::Result<Option<u32>> {
    let table = match sockets.remote {
        SocketAddr::V4(_) => "tcp",
        SocketAddr::V6(_) => "tcp6",
    };
    let text = std::fs::read_to_string(sockets.tables.join(table))?;
    Ok(find_user(&text, sockets.remote, sockets.local))
}

fn find_user(table: &str, remote: SocketAddr, local: SocketAddr) -> Option<u32> {
    let (client, agent) = (table_form(remote), table_form(local));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_client = fields.next()? == client && fields.next()? == agent;
        if !is_client {
            return None;
        }
        // state, queues, timer, retransmissions, user, timeout, inode
        let user = fields.nth(4)?.parse().ok()?;
        // A closed socket has no inode, and older kernels report root as its owner.
        fields.nth(1).filter(|inode| *inode != "0").and(Some(user))
    })
}

/// Returns an address in the form of the table.
fn table_form(address: SocketAddr) -> String {
    let word = |bytes: &[u8; 4]| format!("{:08X}", u32::from_ne_bytes(*bytes));
    let ip = match address.ip() {
        IpAddr::V4(ip) => word(&ip.octets()),
        IpAddr::V6(ip) => ip.octets().as_chunks::<4>().0.iter().map(word).collect(),
    };
    format!("{ip}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 2 1 0 20 4 30 10 -1
   2: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     7        0 3 1 0 20 4 30 10 -1
   3: 0100007F:C351 0100007F:1F90 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
";

    #[cfg(target_endian = "little")]
    #[test]
    fn owner_of_the_client_socket_is_returned() {
        let (remote, local) = ("127.0.0.1:50000".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        assert_eq!(find_user(TABLE, remote, local), Some(1000));
        assert_eq!(find_user(TABLE, "127.0.0.1:50001".parse().unwrap(), local), None, "the socket is closed");
        assert_eq!(find_user(TABLE, "127.0.0.1:50002".parse().unwrap(), local), None);
        assert_eq!(find_user("", remote, local), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn table_of_the_kernel_is_parsed() {
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let sockets = SocketPair {
            remote: client.local_addr().unwrap(),
            local: client.peer_addr().unwrap(),
            tables: Path::new("/proc/self/net").into(),
        };
        assert_eq!(user_of(&sockets).unwrap(), Some(nix::unistd::getuid().as_raw()));
        let unreadable = SocketPair { tables: Path::new("/nonexistent").into(), ..sockets };
        assert!(user_of(&unreadable).is_err());
    }
}
