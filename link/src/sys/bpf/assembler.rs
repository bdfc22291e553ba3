//! An assembler for the BPF instructions that podmeta uses. Pure.
//!
//! Source of the operations: Documentation/bpf/standardization/instruction-set.rst of the kernel.

use std::os::fd::RawFd;

use super::Instruction;

/// A register. Calls change `R0` to `R5`, and keep `R6` to `R8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R5 = 5,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    /// The end of the stack frame. The stack is below.
    Frame = 10,
}

/// Width of a load. The number is the operation code of the load instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Width {
    Byte = 0x71,
    Word = 0x61,
    Double = 0x79,
}

/// Condition of a jump. The number is the operation code of the jump instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Condition {
    /// The lower 32 bits are equal to the value.
    Equal = 0x16,
    /// The lower 32 bits differ from the value.
    NotEqual = 0x56,
    /// All 64 bits are zero. The value must be 0.
    Zero = 0x15,
    /// At least one of the 64 bits is set. The value must be 0.
    NotZero = 0x55,
}

/// A helper function of the kernel, by its number. Source: linux/bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Helper {
    MapLookupElem = 1,
    SkbLoadBytesRelative = 68,
    SkbAncestorCgroupId = 83,
    GetNetnsCookie = 122,
    GetCurrentAncestorCgroupId = 123,
}

/// A position in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    code: Vec<Instruction>,
    /// Position and target of each jump.
    jumps: Vec<(usize, Label)>,
    /// Position of each label, by its number, or `None` before it is placed.
    labels: Vec<Option<usize>>,
}

impl Assembler {
    /// Creates a label, to be placed once.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places a label before the next instruction.
    pub(crate) fn place(&mut self, label: Label) {
        if let Some(position) = self.labels.get_mut(label.0) {
            *position = Some(self.code.len());
        }
    }

    /// Loads a value from a pointer and an offset in bytes.
    pub(crate) fn load(&mut self, to: Register, width: Width, from: Register, offset: i16) {
        self.push(width as u8, registers(to, from as u8), offset, 0);
    }

    /// Stores the lower 32 bits of a register at a pointer and an offset in bytes.
    pub(crate) fn store_word(&mut self, to: Register, offset: i16, from: Register) {
        self.push(0x63, registers(to, from as u8), offset, 0);
    }

    /// Stores all 64 bits of a register at a pointer and an offset in bytes.
    pub(crate) fn store(&mut self, to: Register, offset: i16, from: Register) {
        self.push(0x7b, registers(to, from as u8), offset, 0);
    }

    /// Copies a register.
    pub(crate) fn copy(&mut self, to: Register, from: Register) {
        self.push(0xbf, registers(to, from as u8), 0, 0);
    }

    /// Sets a register to a value that is sign-extended to 64 bits.
    pub(crate) fn set(&mut self, to: Register, value: i32) {
        self.push(0xb7, registers(to, 0), 0, value);
    }

    /// Adds a value to a register.
    pub(crate) fn add(&mut self, to: Register, value: i32) {
        self.push(0x07, registers(to, 0), 0, value);
    }

    /// Shifts a register to the right by a number of bits. Zeros are added on the left.
    pub(crate) fn shift_right(&mut self, to: Register, bits: i32) {
        self.push(0x77, registers(to, 0), 0, bits);
    }

    /// Sets a register to a value of 64 bits. This takes two instructions.
    pub(crate) fn set_long(&mut self, to: Register, value: u64) {
        let [low, high] = [value, value >> 32].map(|half| (half & u64::from(u32::MAX)) as u32);
        self.push(0x18, registers(to, 0), 0, low.cast_signed());
        self.push(0, 0, 0, high.cast_signed());
    }

    /// Sets a register to the pointer to a map. This takes two instructions.
    pub(crate) fn set_map(&mut self, to: Register, map: RawFd) {
        const BPF_PSEUDO_MAP_FD: u8 = 1;
        self.push(0x18, registers(to, BPF_PSEUDO_MAP_FD), 0, map);
        self.push(0, 0, 0, 0);
    }

    /// Calls a helper with the arguments in `R1` to `R5`. The result is in `R0`.
    pub(crate) fn call(&mut self, helper: Helper) {
        self.push(0x85, 0, 0, helper as i32);
    }

    /// Jumps if a register meets a condition.
    pub(crate) fn jump_if(&mut self, register: Register, condition: Condition, value: i32, target: Label) {
        self.jumps.push((self.code.len(), target));
        self.push(condition as u8, registers(register, 0), 0, value);
    }

    /// Jumps if two registers differ in at least one of the 64 bits.
    pub(crate) fn jump_if_differs(&mut self, register: Register, other: Register, target: Label) {
        self.jumps.push((self.code.len(), target));
        self.push(0x5d, registers(register, other as u8), 0, 0);
    }

    /// Jumps unconditionally.
    pub(crate) fn jump(&mut self, target: Label) {
        self.jumps.push((self.code.len(), target));
        self.push(0x05, 0, 0, 0);
    }

    /// Ends the program. The result is in `R0`.
    pub(crate) fn exit(&mut self) {
        self.push(0x95, 0, 0, 0);
    }

    /// Returns the program with the offsets of its jumps. A jump goes past the end of the program if its label is not placed, is
    /// before the jump, or is too far away. The kernel rejects such a program.
    pub(crate) fn finish(mut self) -> Vec<Instruction> {
        for (from, target) in self.jumps {
            let to = self.labels.get(target.0).copied().flatten();
            let distance = to.and_then(|to| i16::try_from(to.checked_sub(from + 1)?).ok());
            if let Some(instruction) = self.code.get_mut(from) {
                instruction.offset = distance.unwrap_or(i16::MAX);
            }
        }
        self.code
    }

    fn push(&mut self, operation: u8, registers: u8, offset: i16, immediate: i32) {
        self.code.push(Instruction { operation, registers, offset, immediate });
    }
}

fn registers(destination: Register, source: u8) -> u8 {
    destination as u8 | source << 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_have_the_codes_of_the_kernel() {
        let mut program = Assembler::default();
        program.load(Register::R7, Width::Word, Register::R6, 16);
        program.copy(Register::R3, Register::Frame);
        program.add(Register::R3, -40);
        program.shift_right(Register::R3, 4);
        program.set_map(Register::R2, 9);
        program.call(Helper::SkbAncestorCgroupId);
        program.store(Register::Frame, -48, Register::R0);
        program.set_long(Register::R1, 0x0000_0002_ffff_fff0);
        program.exit();
        let instruction =
            |operation, registers, offset, immediate| Instruction { operation, registers, offset, immediate };
        let expected = [
            instruction(0x61, 0x67, 16, 0),
            instruction(0xbf, 0xa3, 0, 0),
            instruction(0x07, 0x03, 0, -40),
            instruction(0x77, 0x03, 0, 4),
            instruction(0x18, 0x12, 0, 9),
            instruction(0, 0, 0, 0),
            instruction(0x85, 0, 0, 83),
            instruction(0x7b, 0x0a, -48, 0),
            instruction(0x18, 0x01, 0, -16),
            instruction(0, 0, 0, 2),
            instruction(0x95, 0, 0, 0),
        ];
        assert_eq!(program.finish(), expected);
    }

    #[test]
    fn jump_counts_the_instructions_between_itself_and_the_label() {
        let mut program = Assembler::default();
        let (near, far) = (program.label(), program.label());
        program.jump_if(Register::R0, Condition::Equal, 1, far);
        program.jump(near);
        program.place(near);
        program.exit();
        program.place(far);
        program.exit();
        let offsets = program.finish().iter().map(|instruction| instruction.offset).collect::<Vec<_>>();
        assert_eq!(offsets, [2, 0, 0, 0]);
    }

    #[test]
    fn jump_to_a_label_that_is_not_placed_goes_past_the_end_of_the_program() {
        let mut program = Assembler::default();
        let label = program.label();
        program.jump(label);
        assert_eq!(program.finish()[0].offset, i16::MAX);
    }
}
