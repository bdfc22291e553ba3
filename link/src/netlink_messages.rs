//! The messages of a netlink datagram.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{NetlinkDeserializable, NetlinkMessage};

/// Length of a netlink header in bytes.
const HEADER_LENGTH: usize = 16;

/// Iterates over the messages of a datagram.
pub(crate) fn parse<T: NetlinkDeserializable + Debug>(
    mut bytes: &[u8],
) -> impl Iterator<Item = io::Result<NetlinkMessage<T>>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk::<4>()?);
        let length =
            usize::try_from(length).ok().filter(|length| *length >= HEADER_LENGTH && *length <= bytes.len())?;
        let (message, rest) = bytes.split_at(length);
        // Messages are aligned to four bytes.
        bytes = rest.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        Some(NetlinkMessage::deserialize(message).map_err(io::Error::other))
    })
}
