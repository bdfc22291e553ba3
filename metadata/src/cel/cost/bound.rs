//! Sizes of values, and bounds of the values that an expression can have.

use crate::cel::scope::Fact;

/// Cost of one value, such as an entry of a map, in addition to the bytes of its text.
const VALUE_COST: u64 = 256;

/// The size of a value and everything below it.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cel) struct Size {
    pub(super) values: u64,
    pub(super) bytes: u64,
}

impl Size {
    /// Returns the size of a text of this length, or of another single value.
    pub(in crate::cel) fn text(bytes: usize) -> Self {
        Self { values: 1, bytes: bytes as u64 }
    }

    /// Returns the size of the key of a map entry: its bytes only, because the value of the entry is counted.
    pub(in crate::cel) fn key(bytes: usize) -> Self {
        Self { values: 0, bytes: bytes as u64 }
    }

    pub(in crate::cel) fn plus(self, other: Self) -> Self {
        Self { values: self.values + other.values, bytes: self.bytes + other.bytes }
    }

    pub(in crate::cel) fn max(self, other: Self) -> Self {
        Self { values: self.values.max(other.values), bytes: self.bytes.max(other.bytes) }
    }

    pub(super) fn times(self, count: u64) -> Self {
        Self { values: self.values * count, bytes: self.bytes * count }
    }

    /// Returns the cost of a copy.
    pub(super) fn copy_cost(self) -> u64 {
        self.values * VALUE_COST + self.bytes
    }
}

/// An upper bound of the values that a node of the syntax tree can have.
#[derive(Clone, Copy)]
pub(super) struct Bound<'f> {
    pub(super) size: Size,
    /// The number of entries or elements.
    pub(super) length: u64,
    /// The upper bound of each key, value and element.
    pub(super) member: Size,
    /// The fact that the value is taken from, or `None` if that is not certain.
    pub(super) fact: Option<&'f Fact>,
}

impl<'f> Bound<'f> {
    /// Returns the bound of a number, a Boolean, null or the name of a type.
    pub(super) fn scalar() -> Self {
        Self::any(Size::text(0))
    }

    /// Returns the bound of any value of this size.
    pub(super) fn any(size: Size) -> Self {
        Self { size, length: size.values, member: size, fact: None }
    }

    pub(super) fn fact(fact: &'f Fact) -> Self {
        Self { size: fact.size, length: fact.length, member: fact.member, fact: Some(fact) }
    }

    pub(super) fn max(self, other: Self) -> Self {
        let (size, length) = (self.size.max(other.size), self.length.max(other.length));
        Self { size, length, member: self.member.max(other.member), fact: None }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        let (size, length) = (self.size.plus(other.size), self.length + other.length);
        Self { size, length, member: self.member.max(other.member), fact: None }
    }
}
