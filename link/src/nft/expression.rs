//! Expressions of rules. The attributes have the order in which the kernel returns them.
//!
//! Source of the numbers: linux/netfilter/nf_tables.h.

use netlink_packet_core::{DefaultNla, Emitable as _};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Meta, MetaKey, Operator, Payload, Register, Verdict,
    VerdictAttribute,
};

use super::table::RateSet;

/// Base of a payload expression.
#[derive(Clone, Copy)]
pub(crate) enum Header {
    Network = 1,
    Transport = 2,
}

/// Value of `meta nfproto` for IPv4.
pub(crate) const NFPROTO_IPV4: u8 = 2;

/// Value of `meta nfproto` for IPv6.
pub(crate) const NFPROTO_IPV6: u8 = 10;

/// Value of `meta l4proto` for TCP.
pub(crate) const IPPROTO_TCP: u8 = 6;

/// Type of set keys that are interface indexes, for `nft list`. Source: `TYPE_IFINDEX` in nftables.
pub(super) const INTERFACE_TYPE: u32 = 20;

/// Verdict that drops a packet. Source: `NF_DROP` in linux/netfilter.h.
const NF_DROP: u32 = 0;

/// Loads a property of the packet.
pub(crate) fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)])
}

/// Loads bytes of the packet.
pub(crate) fn payload(header: Header, offset: u32, length: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(header as u32),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

/// Continues if the loaded bytes equal a value.
pub(crate) fn equal(value: impl Into<Vec<u8>>) -> Expressions {
    compare(Operator::Equal, value.into())
}

/// Continues if the loaded bytes differ from a value.
pub(crate) fn not_equal(value: impl Into<Vec<u8>>) -> Expressions {
    compare(Operator::NotEqual, value.into())
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

/// Keeps the bits of the loaded bytes that are set in `bits`.
pub(crate) fn mask<const N: usize>(bits: [u8; N]) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(u32::try_from(N).unwrap_or(u32::MAX)),
        Bitwise::Op(0),
        Bitwise::Mask(DataAttribute::Value(bits.to_vec())),
        Bitwise::Xor(DataAttribute::Value(vec![0; N])),
    ])
}

/// Loads 1 as one byte if an IPv6 packet has a fragment header, else 0.
pub(crate) fn has_fragment_header() -> Expressions {
    const FRAGMENT_HEADER: u8 = 44;
    const LENGTH: u32 = 1;
    const FLAG_PRESENT: u32 = 1;
    const OPERATION_IPV6: u32 = 0;
    custom(
        "exthdr",
        vec![
            u32_attribute(1, Register::Reg1.into()),
            DefaultNla::new(2, vec![FRAGMENT_HEADER]),
            u32_attribute(3, 0), // offset in the header
            u32_attribute(4, LENGTH),
            u32_attribute(5, FLAG_PRESENT),
            u32_attribute(6, OPERATION_IPV6),
        ],
    )
}

/// Loads 1 if the route to the source address leads to the interface that the packet arrived on, else 0.
pub(crate) fn source_is_routed_to_interface() -> Expressions {
    const RESULT_OIF: u32 = 1;
    const FLAGS_SADDR_IIF_PRESENT: u32 = 1 | 1 << 3 | 1 << 5;
    custom(
        "fib",
        vec![
            u32_attribute(1, Register::Reg1.into()),
            u32_attribute(2, RESULT_OIF),
            u32_attribute(3, FLAGS_SADDR_IIF_PRESENT),
        ],
    )
}

/// Continues if the packets of the interface in the register exceed `rate` per second and a burst of `burst` packets.
pub(crate) fn over_rate(set: RateSet, rate: u64, burst: u32) -> Expressions {
    const UPDATE: u32 = 1;
    const INVERTED: u32 = 1;
    const PACKETS: u32 = 0;
    const SECOND: u64 = 1;
    // The kernel returns this attribute without the flag for nested attributes, byte for byte.
    let limit = [
        u64_attribute(1, rate),
        u64_attribute(2, SECOND),
        u32_attribute(3, burst),
        u32_attribute(4, PACKETS),
        u32_attribute(5, INVERTED),
    ];
    let limit = [DefaultNla::new(1, b"limit\0".to_vec()), DefaultNla::new(2, encode(&limit))];
    let mut name = set.name.as_bytes().to_vec();
    name.push(0);
    custom(
        "dynset",
        vec![
            DefaultNla::new(1, name),
            u32_attribute(2, set.id),
            u32_attribute(3, UPDATE),
            u32_attribute(4, Register::Reg1.into()),
            DefaultNla::new(7, encode(&limit)),
        ],
    )
}

/// Counts packets and bytes.
pub(crate) fn counter() -> Expressions {
    custom("counter", Vec::new())
}

/// Drops the packet.
pub(crate) fn drop_packet() -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_DROP))])),
    ])
}

fn custom(expression_type: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: expression_type.to_owned(), attributes }
}

/// Returns attributes as the value of another one.
fn encode(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    value
}

fn u32_attribute(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn u64_attribute(kind: u16, value: u64) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}
