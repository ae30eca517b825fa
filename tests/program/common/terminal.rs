//! A client on a terminal, and a person before it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::client::{Client, Ran, Running};
use super::process::Transcript;

/// A terminal whose foreground process is a client.
pub struct Terminal {
    keyboard: File,
    screen: Transcript,
    /// What has been seen of the screen.
    seen: usize,
    running: Running,
}

impl Terminal {
    /// Runs `client` on a new terminal of this size, after `stty` with these words has set it up.
    pub fn open(client: &Client, rows: u16, columns: u16, modes: &str) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        resize(&master, rows, columns);
        let line = ioctl_tiocgptpeer(&master, flags).unwrap();
        let again = || line.try_clone().unwrap();
        if !modes.is_empty() {
            Client::new("stty").args(modes.split(' ')).stdin(again()).run().succeeds();
        }
        // In a new session, whose terminal this becomes.
        let leader = client.under("setsid", &["--ctty", "--wait"]).env("TERM", "xterm");
        let running = leader.stdin(again()).stdout(again()).stderr(again()).spawn();
        let keyboard = File::from(master);
        let screen = Transcript::of(keyboard.try_clone().unwrap());
        Terminal { keyboard, screen, seen: 0, running }
    }

    pub fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until these words are on the screen, behind those that were waited for before.
    #[track_caller]
    pub fn shows(&mut self, words: &str) {
        let found = self.screen.find(self.seen, words);
        self.seen = found.unwrap_or_else(|| panic!("no {words:?} on the screen:\n{}", self.screen.text()));
    }

    /// All that has been shown so far.
    pub fn text(&self) -> String {
        self.screen.text()
    }

    pub fn resize(&mut self, rows: u16, columns: u16) {
        resize(&self.keyboard, rows, columns);
    }

    /// Waits until the client has ended.
    #[track_caller]
    pub fn wait(mut self) -> Ran {
        self.running.end()
    }
}

fn resize(terminal: impl AsFd, rows: u16, columns: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}
