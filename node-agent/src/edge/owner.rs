//! Finds the user that owns the pod's end of a connection, in the kernel's table of sockets.
//! Source: proc(5), `/proc/net/tcp`; addresses are in the machine's byte order, four bytes at a time.

use std::net::{IpAddr, SocketAddr};

use crate::edge::connection::Peer;

/// The numeric user id; `None` where it cannot be found, and then nobody is let in who is not everybody.
pub(super) fn of(peer: &Peer) -> Option<u32> {
    let table = match peer.remote {
        SocketAddr::V4(_) => "tcp",
        SocketAddr::V6(_) => "tcp6",
    };
    let text = std::fs::read_to_string(peer.sockets.join(table)).ok()?;
    find(&text, peer.remote, peer.local)
}

fn find(table: &str, remote: SocketAddr, local: SocketAddr) -> Option<u32> {
    let (theirs, ours) = (written(remote), written(local));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_theirs = fields.next()? == theirs && fields.next()? == ours;
        // state, queues, timer, retransmissions, user
        if is_theirs { fields.nth(4)?.parse().ok() } else { None }
    })
}

/// An address as the table writes it.
fn written(address: SocketAddr) -> String {
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
";

    #[cfg(target_endian = "little")]
    #[test]
    fn the_owner_is_that_of_the_far_end_not_of_ours() {
        let (remote, local) = ("127.0.0.1:50000".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        assert_eq!(find(TABLE, remote, local), Some(1000));
        assert_eq!(find(TABLE, "127.0.0.1:50001".parse().unwrap(), local), None);
        assert_eq!(find("", remote, local), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_s_own_table_is_understood() {
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = Peer {
            remote: near.local_addr().unwrap(),
            local: near.peer_addr().unwrap(),
            sockets: "/proc/self/net".into(),
        };
        assert_eq!(of(&peer), Some(nix::unistd::getuid().as_raw()));
    }
}
