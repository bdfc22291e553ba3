//! The program of the guard, for the egress of an uplink. Pure.
//!
//! ```text
//! not IPv4 or IPv6, not to a service address, or UDP    next program
//! no socket (forwarded)                                 drop
//! socket outside the cgroups of pods                    next program
//! socket of an exempt pod                               next program
//! socket of another pod                                 drop
//! ```
//!
//! UDP passes because clouds have DNS and NTP servers at service addresses. All other protocols count, not only TCP and port
//! 80: an IP fragment and an IPv6 packet with extension headers do not show them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::os::fd::RawFd;

use super::assembler::{Assembler, Condition, Helper, Label, Register, Width};
use crate::sys::bpf::Instruction;

/// Entries of the array of cgroups with those that contain all pods. While they are empty, sockets of pods pass.
pub(super) const POD_ENTRIES: Range<u32> = 0..4;

/// Entries of the array of cgroups with those of exempt pods.
pub(super) const EXEMPT_ENTRIES: Range<u32> = 4..68;

/// Offsets in the context, `struct __sk_buff`. Source: linux/bpf.h.
const SKB_PROTOCOL: i16 = 16;
const SKB_SK: i16 = 168;

/// Protocols of a packet. Source: linux/if_ether.h.
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// Protocol number of UDP.
const IPPROTO_UDP: i32 = 17;

/// Lengths of IP headers in bytes, without options and extensions.
const IPV4_HEADER: i16 = 20;
const IPV6_HEADER: i16 = 40;

/// Place of the IP header on the stack.
const HEADER: i16 = -IPV6_HEADER;

/// Result that drops the packet: `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// Result that continues with the next program: `TC_ACT_UNSPEC`.
const NEXT: i32 = -1;

/// Result of [`Helper::SkbUnderCgroup`] for a socket in the cgroup or below. It is 0 outside, and negative for an empty entry
/// and for a socket without cgroup. Such a socket sends acknowledgements of closed connections only.
const UNDER: i32 = 1;

/// Returns the program for an array of cgroups.
pub(super) fn program(cgroups: RawFd, ipv4: &[Ipv4Addr], ipv6: &[Ipv6Addr]) -> Vec<Instruction> {
    use Register::{R0, R1, R6, R7, R8};
    let mut program = Assembler::default();
    let [is_ipv4, is_service, is_pod, drop, next] = std::array::from_fn(|_| program.label());
    program.copy(R6, R1);
    program.load(R7, Width::Word, R6, SKB_PROTOCOL);
    program.jump_if(R7, Condition::Equal, i32::from(ETH_P_IP.to_be()), is_ipv4);
    program.jump_if(R7, Condition::NotEqual, i32::from(ETH_P_IPV6.to_be()), next);

    load_header(&mut program, IPV6_HEADER, next);
    program.load(R8, Width::Byte, Register::Frame, HEADER + 6);
    for address in ipv6 {
        let other = program.label();
        for (offset, word) in (HEADER + 24..).step_by(4).zip(words(address.octets())) {
            program.load(R7, Width::Word, Register::Frame, offset);
            program.jump_if(R7, Condition::NotEqual, word, other);
        }
        program.jump(is_service);
        program.place(other);
    }
    program.jump(next);

    program.place(is_ipv4);
    load_header(&mut program, IPV4_HEADER, next);
    program.load(R8, Width::Byte, Register::Frame, HEADER + 9);
    program.load(R7, Width::Word, Register::Frame, HEADER + 16);
    for address in ipv4 {
        program.jump_if(R7, Condition::Equal, i32::from_ne_bytes(address.octets()), is_service);
    }
    program.jump(next);

    program.place(is_service);
    program.jump_if(R8, Condition::Equal, IPPROTO_UDP, next);
    program.load(R7, Width::Double, R6, SKB_SK);
    program.jump_if(R7, Condition::Zero, 0, drop);
    for entry in POD_ENTRIES {
        jump_if_under(&mut program, cgroups, entry, is_pod);
    }
    program.jump(next);
    program.place(is_pod);
    for entry in EXEMPT_ENTRIES {
        jump_if_under(&mut program, cgroups, entry, next);
    }

    program.place(drop);
    program.set(R0, DROP);
    program.exit();
    program.place(next);
    program.set(R0, NEXT);
    program.exit();
    program.finish()
}

/// Copies the start of the IP header to the stack. Jumps if the packet is shorter.
fn load_header(program: &mut Assembler, length: i16, too_short: Label) {
    use Register::{R0, R1, R2, R3, R4, R5, R6};
    /// Offsets count from the network header. Source: linux/bpf.h.
    const BPF_HDR_START_NET: i32 = 1;
    program.copy(R1, R6);
    program.set(R2, 0);
    program.copy(R3, Register::Frame);
    program.add(R3, HEADER.into());
    program.set(R4, length.into());
    program.set(R5, BPF_HDR_START_NET);
    program.call(Helper::SkbLoadBytesRelative);
    program.jump_if(R0, Condition::NotEqual, 0, too_short);
}

/// Jumps if the socket of the packet is in the cgroup of an entry, or below it.
fn jump_if_under(program: &mut Assembler, cgroups: RawFd, entry: u32, target: Label) {
    use Register::{R0, R1, R2, R3, R6};
    program.copy(R1, R6);
    program.set_map(R2, cgroups);
    program.set(R3, entry.cast_signed());
    program.call(Helper::SkbUnderCgroup);
    program.jump_if(R0, Condition::Equal, UNDER, target);
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
        program(9, &service::ipv4(), &service::ipv6())
    }

    /// Returns the position of the instruction to which a jump goes.
    fn target(program: &[Instruction], position: usize) -> usize {
        position + 1 + usize::try_from(program[position].offset).unwrap()
    }

    fn is_jump(instruction: &Instruction) -> bool {
        [0x05, 0x15, 0x16, 0x56].contains(&instruction.operation)
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
        let position = program.iter().position(|instruction| instruction.operation == Condition::Zero as u8).unwrap();
        assert_eq!(program[position - 1].offset, SKB_SK);
        assert_eq!(target(&program, position), program.len() - 4);
    }

    #[test]
    fn each_ipv4_address_is_compared_in_network_order() {
        let program = of_service();
        for address in service::ipv4() {
            let compares = |instruction: &&Instruction| instruction.immediate.to_ne_bytes() == address.octets();
            assert_eq!(program.iter().filter(compares).count(), 1, "{address}");
        }
    }

    #[test]
    fn each_entry_is_tested_once() {
        let program = of_service();
        let calls = program.windows(2).filter(|pair| pair[1].immediate == 33 && pair[1].operation == 0x85);
        let entries = calls.map(|pair| pair[0].immediate.unsigned_abs()).collect::<Vec<_>>();
        assert_eq!(entries, POD_ENTRIES.chain(EXEMPT_ENTRIES).collect::<Vec<_>>());
    }
}
