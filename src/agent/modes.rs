//! Encoded terminal modes, RFC 4254 section 8.

use std::sync::LazyLock;

use rustix::termios::{ControlModes, InputModes, LocalModes, OutputModes, SpecialCodeIndex, Termios};

use super::pty::Pty;
use crate::connection::wire::{Malformed, Reader};

const END: u8 = 0;
const CS7: u8 = 90;
const CS8: u8 = 91;
const INPUT_SPEED: u8 = 128;
const OUTPUT_SPEED: u8 = 129;
/// From here on opcodes have no argument that anyone knows the length of: reading stops.
const UNDEFINED: u8 = 160;

const CHARACTERS: [(u8, SpecialCodeIndex); 15] = [
    (1, SpecialCodeIndex::VINTR),
    (2, SpecialCodeIndex::VQUIT),
    (3, SpecialCodeIndex::VERASE),
    (4, SpecialCodeIndex::VKILL),
    (5, SpecialCodeIndex::VEOF),
    (6, SpecialCodeIndex::VEOL),
    (7, SpecialCodeIndex::VEOL2),
    (8, SpecialCodeIndex::VSTART),
    (9, SpecialCodeIndex::VSTOP),
    (10, SpecialCodeIndex::VSUSP),
    // 11, VDSUSP, 15, VFLUSH, and 17, VSTATUS, do not exist on Linux.
    (12, SpecialCodeIndex::VREPRINT),
    (13, SpecialCodeIndex::VWERASE),
    (14, SpecialCodeIndex::VLNEXT),
    (16, SpecialCodeIndex::VSWTC),
    (18, SpecialCodeIndex::VDISCARD),
];

const INPUT: [(u8, InputModes); 13] = [
    (30, InputModes::IGNPAR),
    (31, InputModes::PARMRK),
    (32, InputModes::INPCK),
    (33, InputModes::ISTRIP),
    (34, InputModes::INLCR),
    (35, InputModes::IGNCR),
    (36, InputModes::ICRNL),
    (37, InputModes::IUCLC),
    (38, InputModes::IXON),
    (39, InputModes::IXANY),
    (40, InputModes::IXOFF),
    (41, InputModes::IMAXBEL),
    (42, InputModes::IUTF8),
];

const LOCAL: [(u8, LocalModes); 13] = [
    (50, LocalModes::ISIG),
    (51, LocalModes::ICANON),
    (52, LocalModes::XCASE),
    (53, LocalModes::ECHO),
    (54, LocalModes::ECHOE),
    (55, LocalModes::ECHOK),
    (56, LocalModes::ECHONL),
    (57, LocalModes::NOFLSH),
    (58, LocalModes::TOSTOP),
    (59, LocalModes::IEXTEN),
    (60, LocalModes::ECHOCTL),
    (61, LocalModes::ECHOKE),
    (62, LocalModes::PENDIN),
];

const OUTPUT: [(u8, OutputModes); 6] = [
    (70, OutputModes::OPOST),
    (71, OutputModes::OLCUC),
    (72, OutputModes::ONLCR),
    (73, OutputModes::OCRNL),
    (74, OutputModes::ONOCR),
    (75, OutputModes::ONLRET),
];

const CONTROL: [(u8, ControlModes); 2] = [(92, ControlModes::PARENB), (93, ControlModes::PARODD)];

/// Sets in `terminal` what `encoded` says. Opcodes that Linux has nothing for are skipped, as `sshd` does.
pub fn apply(terminal: &mut Termios, encoded: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(encoded);
    // Clients leave out the END, or the modes altogether.
    while !reader.rest().is_empty() {
        let opcode = reader.u8()?;
        if opcode == END || opcode >= UNDEFINED {
            break;
        }
        let value = reader.u32()?;
        set(terminal, opcode, value);
    }
    Ok(())
}

fn set(terminal: &mut Termios, opcode: u8, value: u32) {
    let on = value != 0;
    match opcode {
        // Speed 0 would hang the line up. What the kernel refuses stays as it was.
        INPUT_SPEED if on => drop(terminal.set_input_speed(value)),
        OUTPUT_SPEED if on => drop(terminal.set_output_speed(value)),
        // Both are values of one field, and a client whose terminal has 8 bits says yes to both: 91 comes after 90.
        // (Linux's pseudo-terminals have 8 bits whatever is set.)
        CS7 if on => set_size(terminal, ControlModes::CS7),
        CS8 if on => set_size(terminal, ControlModes::CS8),
        _ => {}
    }
    if let Some((_, index)) = CHARACTERS.iter().find(|(known, _)| *known == opcode) {
        // 255 says that no character has this function, which on Linux is 0.
        terminal.special_codes[*index] = if value == 255 { 0 } else { value as u8 };
    }
    if let Some((_, mode)) = INPUT.iter().find(|(known, _)| *known == opcode) {
        terminal.input_modes.set(*mode, on);
    }
    if let Some((_, mode)) = LOCAL.iter().find(|(known, _)| *known == opcode) {
        terminal.local_modes.set(*mode, on);
    }
    if let Some((_, mode)) = OUTPUT.iter().find(|(known, _)| *known == opcode) {
        terminal.output_modes.set(*mode, on);
    }
    if let Some((_, mode)) = CONTROL.iter().find(|(known, _)| *known == opcode) {
        terminal.control_modes.set(*mode, on);
    }
}

fn set_size(terminal: &mut Termios, size: ControlModes) {
    terminal.control_modes.remove(ControlModes::CSIZE);
    terminal.control_modes.insert(size);
}

/// Modes for a terminal. What is applied twice is the same.
pub(crate) fn fuzz(encoded: &[u8]) {
    static TERMINAL: LazyLock<Option<Termios>> =
        LazyLock::new(|| Pty::open().and_then(|pty| rustix::termios::tcgetattr(&pty.master)).ok());
    let Some(mut terminal) = TERMINAL.clone() else { return };
    if apply(&mut terminal, encoded).is_ok() {
        let once = terminal.clone();
        assert_eq!(apply(&mut terminal, encoded), Ok(()));
        assert_eq!(format!("{terminal:?}"), format!("{once:?}"));
    }
}
