//! The open files and directories of a session.

use super::reply::Status;
use std::os::fd::OwnedFd;

/// Something open.
#[derive(Debug)]
enum Handle {
    File(File),
    Directory(OwnedFd),
}

/// An open file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) fd: OwnedFd,
    /// Whether writes go to the end, wherever a request wants them.
    pub(super) append: bool,
}

/// What is open, by number. Each takes a descriptor, so the process's own limit (`RLIMIT_NOFILE`) bounds the table.
#[derive(Debug, Default)]
pub(super) struct Handles {
    open: Vec<Option<Handle>>,
    /// The numbers in `open` that are vacant, last freed last.
    vacant: Vec<u32>,
}

impl Handles {
    /// Keeps a file open under the number returned.
    pub(super) fn insert_file(&mut self, file: File) -> Result<u32, Status> {
        self.insert(Handle::File(file))
    }

    /// Keeps a directory open under the number returned.
    pub(super) fn insert_directory(&mut self, directory: OwnedFd) -> Result<u32, Status> {
        self.insert(Handle::Directory(directory))
    }

    fn insert(&mut self, handle: Handle) -> Result<u32, Status> {
        let number = match self.vacant.pop() {
            Some(number) => number,
            None => {
                let number = u32::try_from(self.open.len()).map_err(|_| Status::Failure)?;
                self.open.push(None);
                number
            }
        };
        *self.open.get_mut(number as usize).ok_or(Status::Failure)? = Some(handle);
        Ok(number)
    }

    /// The file with this number, where there is one.
    pub(super) fn file(&self, number: u32) -> Option<&File> {
        match self.open.get(number as usize)? {
            Some(Handle::File(file)) => Some(file),
            _ => None,
        }
    }

    /// The directory with this number, where there is one.
    pub(super) fn directory(&self, number: u32) -> Option<&OwnedFd> {
        match self.open.get(number as usize)? {
            Some(Handle::Directory(directory)) => Some(directory),
            _ => None,
        }
    }

    /// Forgets a number. What was open under it is the caller's to close.
    pub(super) fn remove(&mut self, number: u32) -> Option<OwnedFd> {
        let handle = self.open.get_mut(number as usize)?.take()?;
        self.vacant.push(number);
        Some(match handle {
            Handle::File(file) => file.fd,
            Handle::Directory(directory) => directory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{File, Handles};

    fn file() -> File {
        File { fd: std::fs::File::open("/").unwrap().into(), append: false }
    }

    #[test]
    fn a_number_is_used_again_once_it_is_free() {
        let mut handles = Handles::default();
        assert_eq!(handles.insert_file(file()), Ok(0));
        assert_eq!(handles.insert_file(file()), Ok(1));
        assert!(handles.remove(0).is_some());
        assert!(handles.remove(0).is_none());
        assert_eq!(handles.insert_directory(file().fd), Ok(0));
        assert_eq!(handles.insert_file(file()), Ok(2));
    }

    #[test]
    fn a_directory_is_no_file_and_a_file_no_directory() {
        let mut handles = Handles::default();
        handles.insert_directory(file().fd).unwrap();
        handles.insert_file(file()).unwrap();
        assert!(handles.file(0).is_none() && handles.directory(0).is_some());
        assert!(handles.file(1).is_some() && handles.directory(1).is_none());
        assert!(handles.file(2).is_none() && handles.directory(u32::MAX).is_none());
    }
}
