//! Pseudo-terminals, of the container's own devpts.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsendbreak, tcsetattr, tcsetwinsize};

use super::modes;
use crate::connection::wire::{Malformed, Reader};

/// The agent's end of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// The master. Non-blocking.
    pub master: OwnedFd,
    /// Where the other end is in the container: `/dev/pts/N`, for `SSH_TTY`.
    pub path: OsString,
}

impl Pty {
    /// Opens a new one.
    pub fn open() -> Result<Self, Errno> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        fcntl_setfl(&master, OFlags::NONBLOCK)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = OsString::from_vec(ptsname(&master, Vec::new())?.into_bytes());
        Ok(Pty { master, path })
    }

    /// Opens the other end, the program's.
    pub fn open_slave(&self) -> Result<OwnedFd, Errno> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        match ioctl_tiocgptpeer(&self.master, flags) {
            // Kernels before 4.13 have no such call. Where there is one it is better: it needs no /dev/pts.
            Err(Errno::NOTTY | Errno::INVAL) => {
                rustix::fs::open(&self.path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
            }
            result => result,
        }
    }

    /// Sets the size, in characters and pixels.
    pub fn set_size(&self, size: Winsize) {
        // It fails only for what is no terminal.
        let _ = tcsetwinsize(&self.master, size);
    }

    /// Applies encoded terminal modes, RFC 4254 section 8.
    pub fn set_modes(&self, encoded: &[u8]) -> Result<(), Malformed> {
        let Ok(mut terminal) = tcgetattr(&self.master) else { return Ok(()) };
        modes::apply(&mut terminal, encoded)?;
        if let Err(error) = tcsetattr(&self.master, OptionalActions::Now, &terminal) {
            log::warn!("cannot set terminal modes: {error}");
        }
        Ok(())
    }

    /// Sends a break, RFC 4335.
    pub fn send_break(&self) -> bool {
        tcsendbreak(&self.master).is_ok()
    }
}

/// Decodes the sizes of `pty-req` and `window-change`: columns and rows, then both in pixels.
pub fn read_size(reader: &mut Reader) -> Result<Winsize, Malformed> {
    let mut field = || Ok(reader.u32()?.try_into().unwrap_or(u16::MAX));
    let (ws_col, ws_row, ws_xpixel, ws_ypixel) = (field()?, field()?, field()?, field()?);
    Ok(Winsize { ws_row, ws_col, ws_xpixel, ws_ypixel })
}

#[cfg(test)]
mod tests {
    use rustix::termios::{InputModes, LocalModes, SpecialCodeIndex, tcgetattr};

    use super::Pty;
    use crate::connection::wire::{Malformed, Write};

    fn encode(modes: &[(u8, u32)]) -> Vec<u8> {
        let mut encoded = Vec::new();
        for (opcode, value) in modes {
            encoded.put_u8(*opcode);
            encoded.put_u32(*value);
        }
        encoded
    }

    #[test]
    fn modes_reach_the_terminal() {
        let pty = Pty::open().unwrap();
        let encoded = encode(&[(1, 7), (2, 255), (42, 1), (53, 0), (128, 9600), (129, 9600), (11, 3), (0, 0)]);
        pty.set_modes(&encoded).unwrap();
        let terminal = tcgetattr(pty.open_slave().unwrap()).unwrap();
        assert_eq!(terminal.special_codes[SpecialCodeIndex::VINTR], 7);
        assert_eq!(terminal.special_codes[SpecialCodeIndex::VQUIT], 0);
        assert!(terminal.input_modes.contains(InputModes::IUTF8));
        assert!(!terminal.local_modes.contains(LocalModes::ECHO));
        assert_eq!(terminal.output_speed(), 9600);
    }

    #[test]
    fn modes_without_an_end_are_applied_and_cut_ones_are_malformed() {
        let pty = Pty::open().unwrap();
        assert_eq!(pty.set_modes(b""), Ok(()));
        assert_eq!(pty.set_modes(&encode(&[(53, 0)])), Ok(()));
        assert_eq!(pty.set_modes(&[53, 0, 0]), Err(Malformed));
        assert_eq!(pty.set_modes(&[200, 1]), Ok(()));
    }
}
