//! The program of the guard, for the egress of an interface. Pure.
//!
//! ```text
//! not IPv4 or IPv6, not to a service address, or UDP    next program
//! no socket (forwarded)                                 drop
//! socket that is not of IPv4 or IPv6: packet, tun, tap  drop
//! socket of another network namespace                   drop, if the kernel reports the namespace
//! socket outside the cgroups of pods                    next program
//! socket of an exempt pod                               next program
//! socket of another pod                                 drop
//! ```
//!
//! A packet keeps its socket when a network plugin redirects it from another network namespace, and when an interface sends it
//! by a lower one. A tap device in a pod belongs to the process that opened it, such as the hypervisor of a virtual machine.
//!
//! The program reads the IP version from the IP header. The protocol in the Ethernet header can be another one: a packet socket can
//! set any protocol, and VLAN tags.
//!
//! UDP passes because clouds have DNS and NTP servers at service addresses. The program drops all other protocols and ports, not
//! only TCP to port 80: an IP fragment and an IPv6 packet with extension headers do not show protocol and port.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use crate::sys::bpf::Instruction;
use crate::sys::bpf::assembler::{Assembler, Condition, Helper, Label, Register, Width};

/// Kind of a cgroup: a value in the map of cgroups. The key is the kernel's ID of the cgroup. While the map has no entry of the
/// kind `Pods`, packets from sockets of pods pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum CgroupKind {
    Pods = 1,
    ExemptPod = 2,
}

/// Depth of the deepest cgroup that the program looks up. The root has depth 0. That of a pod has depth 2 or 3, and a node in a
/// container has a few more.
const MAX_DEPTH: i32 = 16;

/// Offset of the socket in the context, `struct __sk_buff`. Source: linux/bpf.h.
const SKB_SK: i16 = 168;

/// IP versions: the first 4 bits of an IP header.
const IPV4: i32 = 4;
const IPV6: i32 = 6;

/// Protocol number of UDP.
const IPPROTO_UDP: i32 = 17;

/// Lengths of IP headers in bytes, without options and extensions.
const IPV4_HEADER: i16 = 20;
const IPV6_HEADER: i16 = 40;

/// Length of a VLAN tag, in bytes.
const VLAN_TAG: i32 = 4;

/// Maximum number of VLAN tags before an IP header that the program skips.
const MAX_VLAN_TAGS: i32 = 2;

/// Place of the IP header on the stack.
const HEADER: i16 = -IPV6_HEADER;

/// Result that drops the packet: `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// Result that continues with the next program: `TC_ACT_UNSPEC`.
const NEXT: i32 = -1;

/// Offset of the address family in `struct bpf_sock`. Source: linux/bpf.h.
const SOCK_FAMILY: i16 = 4;

/// Address families of sockets. Source: linux/socket.h.
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;

/// Place of a cgroup's ID on the stack.
const CGROUP_ID: i16 = HEADER - 8;

/// Returns the program for a map of cgroups. `netns_cookie` identifies the namespace of the node, or is `None` if the kernel
/// does not report the namespace of a socket.
pub(super) fn program(
    cgroups: RawFd,
    netns_cookie: Option<u64>,
    ipv4: &[Ipv4Addr],
    ipv6: &[Ipv6Addr],
) -> Vec<Instruction> {
    use Register::{R0, R1, R6, R7, R8};
    let mut program = Assembler::default();
    let [is_service, is_inet, drop, next] = std::array::from_fn(|_| program.label());
    program.copy(R6, R1);
    jump_if_to_service(&mut program, 0, ipv4, ipv6, is_service);
    // Only a frame of a packet socket can contain VLAN tags. The kernel stores the tags of other frames outside of the frame.
    program.load(R7, Width::Double, R6, SKB_SK);
    program.jump_if(R7, Condition::Zero, 0, next);
    program.load(R7, Width::Word, R7, SOCK_FAMILY);
    program.jump_if(R7, Condition::Equal, AF_INET, next);
    program.jump_if(R7, Condition::Equal, AF_INET6, next);
    for tags in 1..=MAX_VLAN_TAGS {
        jump_if_to_service(&mut program, tags * VLAN_TAG, ipv4, ipv6, is_service);
    }
    program.jump(next);

    program.place(is_service);
    program.jump_if(R8, Condition::Equal, IPPROTO_UDP, next);
    program.load(R7, Width::Double, R6, SKB_SK);
    program.jump_if(R7, Condition::Zero, 0, drop);
    program.load(R7, Width::Word, R7, SOCK_FAMILY);
    program.jump_if(R7, Condition::Equal, AF_INET, is_inet);
    program.jump_if(R7, Condition::NotEqual, AF_INET6, drop);
    program.place(is_inet);
    if let Some(cookie) = netns_cookie {
        program.copy(R1, R6);
        program.call(Helper::GetNetnsCookie);
        program.set_long(R1, cookie);
        program.jump_if_differs(R0, R1, drop);
    }
    find_cgroup(&mut program, cgroups, next);
    program.jump_if(R8, Condition::Equal, 0, next);

    program.place(drop);
    program.set(R0, DROP);
    program.exit();
    program.place(next);
    program.set(R0, NEXT);
    program.exit();
    program.finish()
}

/// Jumps to `is_service` if there is an IP packet to a service address. `R8` then holds its protocol. Otherwise continues with the
/// next instruction. `offset` is the number of bytes between the network header and the IP header.
fn jump_if_to_service(program: &mut Assembler, offset: i32, ipv4: &[Ipv4Addr], ipv6: &[Ipv6Addr], is_service: Label) {
    use Register::{Frame, R7, R8};
    let [is_ipv4, end] = std::array::from_fn(|_| program.label());
    load_header(program, offset, IPV4_HEADER, end);
    program.load(R7, Width::Byte, Frame, HEADER);
    program.shift_right(R7, 4);
    program.jump_if(R7, Condition::Equal, IPV4, is_ipv4);
    program.jump_if(R7, Condition::NotEqual, IPV6, end);

    load_header(program, offset, IPV6_HEADER, end);
    program.load(R8, Width::Byte, Frame, HEADER + 6);
    for address in ipv6 {
        let other = program.label();
        for (offset, word) in (HEADER + 24..).step_by(4).zip(words(address.octets())) {
            program.load(R7, Width::Word, Frame, offset);
            program.jump_if(R7, Condition::NotEqual, word, other);
        }
        program.jump(is_service);
        program.place(other);
    }
    program.jump(end);

    program.place(is_ipv4);
    program.load(R8, Width::Byte, Frame, HEADER + 9);
    program.load(R7, Width::Word, Frame, HEADER + 16);
    for address in ipv4 {
        program.jump_if(R7, Condition::Equal, i32::from_ne_bytes(address.octets()), is_service);
    }
    program.place(end);
}

/// Copies `length` bytes of the IP header to the stack. `offset` is the number of bytes between the network header and the IP header.
/// Jumps to `too_short` if the packet has fewer bytes.
fn load_header(program: &mut Assembler, offset: i32, length: i16, too_short: Label) {
    use Register::{R0, R1, R2, R3, R4, R5, R6};
    /// Offsets count from the network header. Source: linux/bpf.h.
    const BPF_HDR_START_NET: i32 = 1;
    program.copy(R1, R6);
    program.set(R2, offset);
    program.copy(R3, Register::Frame);
    program.add(R3, HEADER.into());
    program.set(R4, length.into());
    program.set(R5, BPF_HDR_START_NET);
    program.call(Helper::SkbLoadBytesRelative);
    program.jump_if(R0, Condition::NotEqual, 0, too_short);
}

/// Looks up the cgroup of the packet's socket and those above. Jumps if one of them is an exempt pod. Otherwise `R8` is 1 if
/// one of them contains pods, and 0 if none does. A socket without cgroup sends acknowledgements of closed connections only.
fn find_cgroup(program: &mut Assembler, cgroups: RawFd, exempt: Label) {
    use Register::{Frame, R0, R1, R2, R6, R7, R8};
    let end = program.label();
    program.set(R8, 0);
    for depth in 1..=MAX_DEPTH {
        let unknown = program.label();
        program.copy(R1, R6);
        program.set(R2, depth);
        program.call(Helper::SkbAncestorCgroupId);
        program.jump_if(R0, Condition::Zero, 0, end);
        program.store(Frame, CGROUP_ID, R0);
        program.set_map(R1, cgroups);
        program.copy(R2, Frame);
        program.add(R2, CGROUP_ID.into());
        program.call(Helper::MapLookupElem);
        program.jump_if(R0, Condition::Zero, 0, unknown);
        program.load(R7, Width::Word, R0, 0);
        program.jump_if(R7, Condition::Equal, CgroupKind::ExemptPod as i32, exempt);
        program.set(R8, 1);
        program.place(unknown);
    }
    program.place(end);
}

/// Returns an address as the words that a load of four bytes returns.
fn words(octets: [u8; 16]) -> [i32; 4] {
    let (words, _) = octets.as_chunks::<4>();
    std::array::from_fn(|n| words.get(n).map_or(0, |word| i32::from_ne_bytes(*word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service;

    fn of_service() -> Vec<Instruction> {
        program(9, Some(7), &service::ipv4(), &service::ipv6())
    }

    /// Returns the position of the instruction to which a jump goes.
    fn target(program: &[Instruction], position: usize) -> usize {
        position + 1 + usize::try_from(program[position].offset).unwrap()
    }

    fn is_jump(instruction: &Instruction) -> bool {
        [0x05, 0x15, 0x16, 0x56, 0x5d].contains(&instruction.operation)
    }

    #[test]
    fn each_jump_goes_forward_to_an_instruction_of_the_program() {
        let program = of_service();
        let jumps = (0..program.len()).filter(|position| is_jump(&program[*position]));
        for position in jumps {
            assert!((position + 1..program.len()).contains(&target(&program, position)), "{position}");
        }
    }

    #[test]
    fn program_ends_with_drop_and_next() {
        let program = of_service();
        let ends = program[program.len() - 4..].iter().map(|end| (end.operation, end.immediate)).collect::<Vec<_>>();
        assert_eq!(ends, [(0xb7, DROP), (0x95, 0), (0xb7, NEXT), (0x95, 0)]);
    }

    #[test]
    fn packet_without_socket_is_dropped() {
        let program = of_service();
        // The first such check is that of frames with VLAN tags. The second one drops the packet.
        let is_zero = |instruction: &Instruction| instruction.operation == Condition::Zero as u8;
        let position = (0..program.len()).filter(|position| is_zero(&program[*position])).nth(1).unwrap();
        assert_eq!(program[position - 1].offset, SKB_SK);
        assert_eq!(target(&program, position), program.len() - 4);
    }

    #[test]
    fn each_ipv4_address_is_compared_in_network_order() {
        let program = of_service();
        for address in service::ipv4() {
            let compares = |instruction: &&Instruction| instruction.immediate.to_ne_bytes() == address.octets();
            assert_eq!(program.iter().filter(compares).count(), 3, "{address}: without and with tags");
        }
    }

    #[test]
    fn each_depth_is_looked_up_once() {
        let program = of_service();
        let calls = program.windows(2).filter(|pair| pair[1].immediate == 83 && pair[1].operation == 0x85);
        let depths = calls.map(|pair| pair[0].immediate).collect::<Vec<_>>();
        assert_eq!(depths, (1..=MAX_DEPTH).collect::<Vec<_>>());
    }

    #[test]
    fn socket_of_another_family_is_dropped() {
        let program = of_service();
        let loads_family =
            |instruction: &Instruction| instruction.operation == Width::Word as u8 && instruction.registers == 0x77;
        let position = program.iter().rposition(loads_family).unwrap();
        let [ipv4, ipv6] = [program[position + 1], program[position + 2]];
        assert_eq!(program[position].offset, SOCK_FAMILY);
        assert_eq!((ipv4.operation, ipv4.immediate), (Condition::Equal as u8, AF_INET));
        assert_eq!((ipv6.operation, ipv6.immediate), (Condition::NotEqual as u8, AF_INET6));
        assert_eq!(target(&program, position + 2), program.len() - 4);
    }

    #[test]
    fn namespace_is_compared_only_if_the_kernel_reports_it() {
        let is_call = |instruction: &Instruction| instruction.operation == 0x85 && instruction.immediate == 122;
        assert_eq!(of_service().iter().filter(|instruction| is_call(instruction)).count(), 1);
        let without = program(9, None, &service::ipv4(), &service::ipv6());
        assert!(!without.iter().any(is_call));
    }
}
