//! IDs in the form of the clouds' IDs. They are hashes of a property of the pod, so they are as stable as it.

use aws_lc_rs::digest::{SHA256, digest};

/// The kind of an ID. It is part of the hash, so IDs of different kinds differ.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IdKind {
    Instance,
    Image,
    Reservation,
    Interface,
    InstanceProfile,
    Serial,
    MacAddress,
}

fn hash(kind: IdKind, of: &str) -> [u8; 32] {
    let mut text = format!("podmeta {kind:?} ").into_bytes();
    text.extend_from_slice(of.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, &text).as_ref());
    bytes
}

/// Returns `PREFIX-` and 17 hexadecimal digits, the form of EC2 (`i-0123456789abcdef0`).
pub(crate) fn ec2_id(prefix: &str, kind: IdKind, of: &str) -> String {
    let mut id = format!("{prefix}-");
    id.extend(hash(kind, of).iter().flat_map(|byte| [byte >> 4, byte & 15]).take(17).filter_map(hex_digit));
    id
}

fn hex_digit(nibble: u8) -> Option<char> {
    char::from_digit(u32::from(nibble), 16)
}

/// Returns `PREFIX` and `length` lower-case letters and digits, the form of ECS (`i-` and 20 of them).
pub(crate) fn alphanumeric_id(prefix: &str, kind: IdKind, of: &str, length: usize) -> String {
    let mut id = prefix.to_owned();
    id.extend(hash(kind, of).iter().take(length).filter_map(|byte| char::from_digit(u32::from(byte % 36), 36)));
    id
}

/// Returns a UUID of version 8.
pub(crate) fn uuid(kind: IdKind, of: &str) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(hash(kind, of).first_chunk::<16>().unwrap_or(&[0; 16]));
    let mut number = u128::from_be_bytes(bytes);
    number = number & !(0xf << 76) | (0x8 << 76);
    number = number & !(0b11 << 62) | (0b10 << 62);
    let digits = format!("{number:032x}");
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// Returns a locally administered unicast MAC address (`02:…`): the other bytes are a hash of `uid`.
pub(crate) fn mac(uid: &str) -> [u8; 6] {
    match hash(IdKind::MacAddress, uid) {
        [a, b, c, d, e, ..] => [2, a, b, c, d, e],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_of_the_cloud_and_are_stable() {
        let id = ec2_id("i", IdKind::Instance, "uid");
        assert_eq!(id, ec2_id("i", IdKind::Instance, "uid"));
        assert_eq!(id.len(), 2 + 17);
        assert!(id[2..].bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");
        assert_ne!(id, ec2_id("i", IdKind::Instance, "other"));
        let id = alphanumeric_id("i-", IdKind::Instance, "uid", 20);
        assert_eq!(id.len(), 2 + 20);
        assert!(id[2..].bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()), "{id}");
    }

    #[test]
    fn serial_number_is_a_uuid() {
        let text = uuid(IdKind::Serial, "uid");
        assert_eq!(text.len(), 36);
        assert_eq!(&text[14..15], "8");
        assert!("89ab".contains(&text[19..20]), "{text}");
    }

    #[test]
    fn mac_is_unicast_and_locally_administered() {
        assert_eq!(mac("uid")[0], 2);
        assert_ne!(mac("uid"), mac("other"));
    }
}
