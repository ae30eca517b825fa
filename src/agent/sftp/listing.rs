//! READDIR's answer, and the line of `ls -l` that it has for each file.

use super::accounts::Accounts;
use super::reply::{Kind, Replies, Status};
use super::sys::local_time;
use crate::connection::wire::Write as _;
use rustix::fs::{AtFlags, FileType, RawDir, Stat, statat};
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

/// How many bytes of entries the kernel hands over at a time. All of them go into the answer, so that nothing is kept
/// between requests; the answer can therefore grow past [`FULL`] by what one such batch becomes, at most some 170
/// lines of 1,100 bytes, and stays below the largest packet.
const BATCH: usize = 4096;

/// The answer is sent once it has this many bytes. The draft has every client take packets of 34,000 bytes; OpenSSH's
/// own answers, of 100 entries, reach 60,000.
const FULL: usize = 30_000;

/// OpenSSH's longest line.
const MAX_LINE: usize = 1023;

/// Half a year in seconds: older files, and those of the future, show the year in place of the time.
const RECENT: i64 = 365 * 24 * 60 * 60 / 2;

/// Answers with the next entries of `directory`.
pub(super) fn read(directory: &OwnedFd, accounts: &Accounts, replies: &mut Replies, id: u32) -> Result<(), Status> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
    let start = replies.start(Kind::Name, id);
    let count_at = replies.len();
    replies.put_u32(0);
    let mut count = 0;
    let mut batch = [MaybeUninit::uninit(); BATCH];
    let mut entries = RawDir::new(directory, &mut batch);
    // An error ends the listing like the end of the directory: there is no other way to tell a client.
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        // A file removed since is left out.
        if let Ok(stat) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            replies.put_string(name.to_bytes());
            let line = replies.start_string();
            put_line(replies, name.to_bytes(), &stat, accounts, now);
            let longest = line + 4 + MAX_LINE;
            replies.truncate(longest);
            replies.finish(line);
            replies.put_attributes(&stat);
            count += 1;
        }
        if entries.is_buffer_empty() && replies.len() - start >= FULL {
            break;
        }
    }
    if count == 0 {
        return Err(Status::EndOfFile);
    }
    replies.patch(count_at, count);
    replies.finish(start);
    Ok(())
}

/// `-rw-r--r--    1 root     root         1234 Jan 13 18:39 name`
fn put_line(line: &mut Vec<u8>, name: &[u8], stat: &Stat, accounts: &Accounts, now: i64) {
    line.extend_from_slice(&mode(stat.st_mode));
    put(line, format_args!("  {:>3} ", stat.st_nlink));
    put_name(line, accounts.user(stat.st_uid), stat.st_uid);
    put_name(line, accounts.group(stat.st_gid), stat.st_gid);
    put(line, format_args!("{:>8} ", stat.st_size as u64));
    put_time(line, stat.st_mtime, now);
    line.push(b' ');
    line.extend_from_slice(name);
}

/// Writing to a vector cannot fail.
fn put(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = line.write_fmt(text);
}

fn put_name(line: &mut Vec<u8>, name: Option<&[u8]>, id: u32) {
    let start = line.len();
    match name {
        Some(name) => line.extend_from_slice(name),
        None => put(line, format_args!("{id}")),
    }
    line.resize(line.len().max(start + 8), b' ');
    line.push(b' ');
}

fn put_time(line: &mut Vec<u8>, seconds: i64, now: i64) {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Some(time) = local_time(seconds) else { return };
    let Some(month) = MONTHS.get(time.month) else { return };
    if now - RECENT < seconds && now >= seconds {
        put(line, format_args!("{month} {:>2} {:02}:{:02}", time.day, time.hour, time.minute));
    } else if time.year <= 9999 {
        put(line, format_args!("{month} {:>2}  {}", time.day, time.year));
    }
}

/// The ten letters that start a line of `ls -l`.
fn mode(mode: u32) -> [u8; 10] {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::RegularFile => b'-',
        FileType::Directory => b'd',
        FileType::Symlink => b'l',
        FileType::Fifo => b'p',
        FileType::Socket => b's',
        FileType::CharacterDevice => b'c',
        FileType::BlockDevice => b'b',
        FileType::Unknown => b'?',
    };
    let bit = |bit: u32, letter: u8| if mode & bit != 0 { letter } else { b'-' };
    // The last letter of each three also shows setuid, setgid and sticky: small with execute, capital without.
    let execute = |bit: u32, special: u32, letter: u8| match (mode & special != 0, mode & bit != 0) {
        (false, false) => b'-',
        (false, true) => b'x',
        (true, false) => letter.to_ascii_uppercase(),
        (true, true) => letter,
    };
    [
        kind,
        bit(0o400, b'r'),
        bit(0o200, b'w'),
        execute(0o100, 0o4000, b's'),
        bit(0o040, b'r'),
        bit(0o020, b'w'),
        execute(0o010, 0o2000, b's'),
        bit(0o004, b'r'),
        bit(0o002, b'w'),
        execute(0o001, 0o1000, b't'),
    ]
}

#[cfg(test)]
mod tests {
    use super::{RECENT, mode, put_name, put_time};

    fn time(seconds: i64, now: i64) -> String {
        let mut line = Vec::new();
        put_time(&mut line, seconds, now);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_mode_reads_as_ls_shows_it() {
        assert_eq!(&mode(0o100_644), b"-rw-r--r--");
        assert_eq!(&mode(0o041_777), b"drwxrwxrwt");
        assert_eq!(&mode(0o107_000), b"---S--S--T");
        assert_eq!(&mode(0o106_711), b"-rws--s--x");
        assert_eq!(&mode(0o120_777), b"lrwxrwxrwx");
    }

    #[test]
    fn a_name_is_padded_to_eight_and_never_cut() {
        let mut line = Vec::new();
        put_name(&mut line, Some(b"al"), 7);
        put_name(&mut line, None, 70_000);
        put_name(&mut line, Some(b"a-long-name"), 7);
        assert_eq!(line, b"al       70000    a-long-name ");
    }

    #[test]
    fn a_recent_file_shows_the_time_and_any_other_the_year() {
        let noon = 1_700_000_000;
        assert_eq!(&time(noon, noon)[9..10], ":");
        assert_eq!(&time(noon, noon + RECENT - 1)[9..10], ":");
        assert!(time(noon, noon + RECENT).ends_with("  2023"));
        assert!(time(noon, noon - 1).ends_with("  2023"));
        assert_eq!(time(i64::MAX, noon), "");
    }
}
