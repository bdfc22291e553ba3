//! Frames of packet sockets on the uplink, with the uplink guard only.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use nix::ifaddrs::getifaddrs;
use podmeta_link::guard::uplink::{Hook, UplinkGuard};
use podmeta_link::netns::Netns;
use podmeta_link::service;
use socket2::{Domain, Socket, Type};

use crate::bpf_pins::Pins;
use crate::kit::{block_until, nft, request, run};
use crate::node::Topology;

/// Returns a frame with tags of the VLAN 0 and an IP header without a valid payload, from one MAC address to another one.
fn frame(macs: [[u8; 6]; 2], tags: usize, to: IpAddr) -> Vec<u8> {
    let [source, destination] = macs;
    let (ethertype, header): ([u8; 2], Vec<u8>) = match to {
        IpAddr::V4(to) => {
            let mut header = [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 1, 1][..], &to.octets()].concat();
            let sum = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>();
            let sum = (sum & 0xffff) + (sum >> 16);
            header[10..12].copy_from_slice(&u16::try_from(!sum & 0xffff).unwrap().to_be_bytes());
            ([0x08, 0x00], header)
        }
        IpAddr::V6(to) => {
            let source: Ipv6Addr = "fd01:1::1".parse().unwrap();
            ([0x86, 0xdd], [&[0x60, 0, 0, 0, 0, 8, 6, 64][..], &source.octets(), &to.octets()].concat())
        }
    };
    [&destination[..], &source, &[0x81, 0, 0, 0].repeat(tags), &ethertype, &header, &[0; 8]].concat()
}

/// Sends a frame by an interface, from a packet socket with this protocol.
fn send_frame(from: &Netns, interface: &str, protocol: u16, frame: &[u8]) {
    from.run(|| {
        let protocol = i32::from(protocol.to_be());
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol.into()))?;
        let mut addresses = getifaddrs()?.filter(|found| found.interface_name == interface);
        let link = addresses.find_map(|found| found.address?.as_link_addr().copied()).unwrap();
        nix::sys::socket::bind(socket.as_raw_fd(), &link)?;
        match socket.send(frame) {
            // The guard has dropped it.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Ok(()),
            result => result.map(drop),
        }
    })
    .unwrap();
}

/// Returns the MAC address of an interface.
fn mac(netns: &Netns, interface: &str) -> [u8; 6] {
    let link = run(netns, &format!("ip -o link show {interface}"));
    let mac = link.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect::<Vec<_>>();
    bytes.try_into().unwrap()
}

/// Protocols of the socket, and numbers of tags.
const FRAMES: [(u16, usize); 6] = [(0x0800, 0), (0x88b5, 0), (0x0800, 1), (0x8100, 1), (0x88b5, 1), (0x88b5, 2)];

/// A process with NET_RAW on the node. The protocol of the socket need not be that of the frame.
#[tokio::test]
async fn frame_of_a_packet_socket_with_another_protocol_or_tags_is_dropped() {
    for hook in [Hook::Best, Hook::Clsact] {
        let topology = Topology::new(0);
        let (node, cloud, pins) = (&topology.node, &topology.cloud, Pins::new());
        let set = |address: IpAddr| format!("ip{} daddr {address} counter", if address.is_ipv4() { "" } else { "6" });
        let rules = service::addresses().into_iter().map(set).collect::<Vec<_>>().join("; ");
        let chain = format!("type filter hook prerouting priority -400; {rules};");
        nft(cloud, &format!("table inet seen {{ chain in {{ {chain} }}; }}"));
        let arrived = || {
            let counters = run(cloud, "nft list table inet seen");
            let counts = counters.split("packets ").skip(1).map(|text| text.split(' ').next().unwrap().parse::<u32>());
            counts.map(Result::unwrap).collect::<Vec<_>>()
        };
        let macs = [mac(node, "up0"), mac(cloud, "eth0")];
        let send_all = || {
            for (protocol, tags) in FRAMES {
                for address in service::addresses() {
                    send_frame(node, "up0", protocol, &frame(macs, tags, address));
                }
            }
        };
        send_all();
        let all = [u32::try_from(FRAMES.len()).unwrap(); 3];
        block_until("the frames arrive without the guard", || arrived() == all);
        UplinkGuard::with_hook(pins.path.clone(), hook).ensure(node).await.unwrap();
        send_all();
        // Packets of one interface arrive in their order.
        let other = "10.0.1.2".parse().unwrap();
        assert!(request(node, other).is_ok());
        assert_eq!(arrived(), all, "{hook:?}");
    }
}
