//! What is wrong in a configuration.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong in a configuration, or worth a warning. Never shows a value that could be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The configuration file.
    pub file: PathBuf,
    /// The line, where there is one; counted from 1.
    pub line: Option<usize>,
    /// The column, for errors of syntax; counted from 1.
    pub column: Option<usize>,
    /// The key's path, such as `docker.execution.container.Image`. Empty for the file as a whole.
    pub key: String,
    /// What is wrong, and the way out.
    pub message: String,
    /// Whether the configuration is good all the same.
    pub warning: bool,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        if self.warning {
            f.write_str(": warning")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Error {}
