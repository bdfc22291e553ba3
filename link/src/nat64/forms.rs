//! The forms of an IPv4 address `a.b.c.d`: the IPv6 addresses that a translator maps to it, one form for each length of the
//! translator's prefix. Pure.
//!
//! ```text
//! prefix   bytes of the IPv6 address
//!   /32    prefix, a b c d, 0
//!   /40    prefix, a b c, 0, d
//!   /48    prefix, a b, 0, c d
//!   /56    prefix, a, 0, b c d
//!   /64    prefix, 0, a b c d
//!   /96    prefix, a b c d
//! ```
//!
//! Source: RFC 6052, section 2.2. A translator ignores the bytes after those in the table.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Lengths of the prefixes, in bytes.
const PREFIX_LENGTHS: [usize; 6] = [4, 5, 6, 7, 8, 12];

/// Position of the byte that is zero in each form. In the form with the longest prefix, it is a part of the prefix.
const ZERO_BYTE: usize = 8;

/// The well-known prefix 64:ff9b::/96. Source: RFC 6052, section 2.1.
pub(super) const WELL_KNOWN: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// The part of an IPv6 address that holds an IPv4 address, for any prefix of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedAddress {
    /// Position of the first byte in the IPv6 address.
    pub offset: u8,
    /// The bytes of the IPv4 address, with the zero byte before, between or after them unless the prefix contains it.
    pub bytes: Vec<u8>,
}

/// Returns the forms of an address, one for each length of a prefix.
#[must_use]
pub fn embedded(address: Ipv4Addr) -> Vec<EmbeddedAddress> {
    let form = |length: usize| {
        let mut bytes = address.octets().to_vec();
        if length <= ZERO_BYTE {
            bytes.insert(ZERO_BYTE - length, 0);
        }
        EmbeddedAddress { offset: u8::try_from(length).unwrap_or(u8::MAX), bytes }
    };
    PREFIX_LENGTHS.into_iter().map(form).collect()
}

/// Returns the form of an address with the well-known prefix.
#[must_use]
pub fn well_known(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(WELL_KNOWN.to_bits() | u128::from(address.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 6052, section 2.4.
    #[test]
    fn forms_are_those_of_the_examples_of_the_rfc() {
        let examples = [
            "2001:db8:c000:221::",
            "2001:db8:1c0:2:21::",
            "2001:db8:122:c000:2:2100::",
            "2001:db8:122:3c0:0:221::",
            "2001:db8:122:344:c0:2:2100::",
            "2001:db8:122:344::192.0.2.33",
        ];
        let forms = embedded(Ipv4Addr::new(192, 0, 2, 33));
        assert_eq!(forms.len(), examples.len());
        for (form, example) in forms.iter().zip(examples) {
            let octets = example.parse::<Ipv6Addr>().unwrap().octets();
            assert!(octets[usize::from(form.offset)..].starts_with(&form.bytes), "{example}: {form:?}");
            let others = forms.iter().filter(|other| *other != form);
            for other in others {
                assert!(!octets[usize::from(other.offset)..].starts_with(&other.bytes), "{example}: {other:?}");
            }
        }
    }

    #[test]
    fn well_known_form_has_the_prefix_of_the_rfc() {
        assert_eq!(well_known(Ipv4Addr::new(192, 0, 2, 33)), "64:ff9b::192.0.2.33".parse::<Ipv6Addr>().unwrap());
    }
}
