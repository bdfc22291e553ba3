//! The programs for `connect(2)` in the cgroups of pods. Pure.
//!
//! ```text
//! not TCP, not port 80, or not to a service address      unchanged
//! socket of another network namespace than the host's    unchanged
//! process of an exempt pod                               unchanged
//! otherwise                                              replaced by the substitute address on the node's link
//! ```

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::RawFd;

use crate::service::SERVICE_PORT;
use crate::sys::bpf::Instruction;
use crate::sys::bpf::assembler::{Assembler, Condition, Helper, Label, Register, Width};
use crate::sys::bpf::connect::ConnectHook;

/// Number of levels below the root of the cgroup hierarchy at which the program looks for an exempt pod. A pod is at level 2 to 4,
/// and at most 4 levels deeper if the node runs in a container.
const MAX_LEVELS: i32 = 12;

/// Offsets in the context, `struct bpf_sock_addr`. Source: linux/bpf.h.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
const PROTOCOL: i16 = 36;

/// Protocol number of TCP.
const IPPROTO_TCP: i32 = 6;

/// Place of a cgroup ID on the stack.
const CGROUP_ID: i16 = -8;

/// Result that admits the call. The kernel uses the address in the context.
const PROCEED: i32 = 1;

/// Returns the program of a hook. `cookie` identifies the host's network namespace, `exempt` is the map of exempt cgroups, and
/// `addresses` contains each service address with its substitute.
pub(super) fn program(
    hook: ConnectHook,
    cookie: u64,
    exempt: RawFd,
    addresses: &[(IpAddr, IpAddr)],
) -> Vec<Instruction> {
    use Register::{R0, R1, R6, R7};
    let mut program = Assembler::default();
    let proceed = program.label();
    program.copy(R6, R1);
    program.load(R7, Width::Word, R6, PROTOCOL);
    program.jump_if(R7, Condition::NotEqual, IPPROTO_TCP, proceed);
    program.load(R7, Width::Word, R6, USER_PORT);
    program.jump_if(R7, Condition::NotEqual, i32::from(SERVICE_PORT.to_be()), proceed);
    for (service, substitute) in addresses {
        let (Some(from), Some(to)) = (words(hook, *service), words(hook, *substitute)) else { continue };
        let other = program.label();
        for (offset, word) in offsets(hook).zip(from) {
            program.load(R7, Width::Word, R6, offset);
            program.jump_if(R7, Condition::NotEqual, word, other);
        }
        jump_unless_redirected(&mut program, cookie, exempt, proceed);
        for (offset, word) in offsets(hook).zip(to) {
            program.set(R7, word);
            program.store_word(R6, offset, R7);
        }
        program.jump(proceed);
        program.place(other);
    }
    program.place(proceed);
    program.set(R0, PROCEED);
    program.exit();
    program.finish()
}

/// Jumps if the socket belongs to another namespace than the host's, or the process to an exempt pod.
fn jump_unless_redirected(program: &mut Assembler, cookie: u64, exempt: RawFd, target: Label) {
    use Register::{Frame, R0, R1, R2, R6, R8};
    program.copy(R1, R6);
    program.call(Helper::GetNetnsCookie);
    program.set_long(R8, cookie);
    program.jump_if_differs(R0, R8, target);
    let end = program.label();
    for level in 1..=MAX_LEVELS {
        program.set(R1, level);
        program.call(Helper::GetCurrentAncestorCgroupId);
        // The cgroup of the process is above this level.
        program.jump_if(R0, Condition::Zero, 0, end);
        program.store(Frame, CGROUP_ID, R0);
        program.set_map(R1, exempt);
        program.copy(R2, Frame);
        program.add(R2, CGROUP_ID.into());
        program.call(Helper::MapLookupElem);
        program.jump_if(R0, Condition::NotZero, 0, target);
    }
    program.place(end);
}

/// Returns the offsets of the words of the address.
fn offsets(hook: ConnectHook) -> impl Iterator<Item = i16> {
    let (first, count) = match hook {
        ConnectHook::Ipv4 => (USER_IP4, 1),
        ConnectHook::Ipv6 => (USER_IP6, 4),
    };
    (first..).step_by(4).take(count)
}

/// Returns an address as the words of a hook. An AF_INET6 socket reaches IPv4 addresses as mapped ones. `None` for an IPv6 address of an
/// AF_INET socket.
fn words(hook: ConnectHook, address: IpAddr) -> Option<Vec<i32>> {
    let of_bytes = |bytes: &[u8]| {
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|word| i32::from_ne_bytes(*word)).collect()
    };
    let ipv6 = |address: Ipv6Addr| of_bytes(&address.octets());
    match (hook, address) {
        (ConnectHook::Ipv4, IpAddr::V4(address)) => Some(of_bytes(&address.octets())),
        (ConnectHook::Ipv4, IpAddr::V6(_)) => None,
        (ConnectHook::Ipv6, IpAddr::V4(address)) => Some(ipv6(address.to_ipv6_mapped())),
        (ConnectHook::Ipv6, IpAddr::V6(address)) => Some(ipv6(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_pods::addresses::substitutes;

    fn of_hook(hook: ConnectHook) -> Vec<Instruction> {
        program(hook, 7, 9, &substitutes())
    }

    #[test]
    fn each_jump_goes_forward_to_an_instruction_of_the_program() {
        for hook in ConnectHook::ALL {
            let program = of_hook(hook);
            for (position, instruction) in program.iter().enumerate() {
                if [0x05, 0x15, 0x55, 0x56, 0x5d].contains(&instruction.operation) {
                    let target = position + 1 + usize::try_from(instruction.offset).unwrap();
                    assert!(target < program.len(), "{position}");
                }
            }
        }
    }

    #[test]
    fn each_address_is_replaced_by_its_substitute_in_network_order() {
        for (hook, count) in [(ConnectHook::Ipv4, 2), (ConnectHook::Ipv6, 3)] {
            let expected = substitutes().into_iter().filter_map(|(_, substitute)| words(hook, substitute));
            let expected = expected.collect::<Vec<_>>();
            assert_eq!(expected.len(), count);
            let stored = of_hook(hook)
                .windows(2)
                .filter(|pair| pair[1].operation == 0x63)
                .map(|pair| pair[0].immediate)
                .collect::<Vec<_>>();
            assert_eq!(stored, expected.concat());
        }
        assert_eq!(words(ConnectHook::Ipv6, "10.1.2.3".parse().unwrap()).unwrap()[2].to_ne_bytes(), [0, 0, 255, 255]);
    }
}
