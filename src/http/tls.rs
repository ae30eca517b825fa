//! TLS 1.2 and 1.3 by OpenSSL, non-blocking.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{self, ErrorCode, SslConnector, SslMethod, SslOptions, SslStream, SslVerifyMode, SslVersion};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509VerifyResult};
use rustix::event::PollFlags;

use super::{Deadline, Error, Phase};

/// Where distributions keep the certificates of public authorities: Debian and Alpine, Fedora, OpenSUSE, and the BSDs'
/// place.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a handshake fails that ends too early.
const CLOSED: &str = "the server closed the connection";

/// What a client presents and demands.
#[derive(Clone, Debug)]
pub struct TlsSettings<'a> {
    /// The authorities that the server's certificate may come from, in PEM; without any, those that the system knows.
    pub authorities: Option<&'a [u8]>,
    /// The client's own certificate, followed by those between it and its authority, and its private key, in PEM.
    pub identity: Option<(&'a [u8], &'a [u8])>,
    /// The name that the server's certificate must be for, in place of the host that is connected to.
    pub server_name: Option<&'a str>,
    /// Whether the server's certificate is checked at all.
    pub verify: bool,
    /// Versions and algorithms.
    pub offer: TlsOffer<'a>,
}

/// The versions and algorithms that a client offers; by default TLS 1.2 and 1.3, and those that OpenSSL does. Lists are
/// in OpenSSL's form: its names, with colons between.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsOffer<'a> {
    /// TLS 1.3 alone.
    pub only_tls13: bool,
    /// Groups for the key exchange.
    pub groups: Option<&'a str>,
    /// Ciphers of TLS 1.3.
    pub tls13_ciphers: Option<&'a str>,
    /// Ciphers of TLS 1.2.
    pub tls12_ciphers: Option<&'a str>,
}

/// What is wrong with [`TlsSettings`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// The authorities' certificates.
    Authorities(String),
    /// The client's certificate.
    Certificate(String),
    /// The client's private key, or that it is another certificate's.
    Key(String),
    /// OpenSSL itself.
    Library(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Authorities(reason) => write!(f, "the authorities' certificates are not valid PEM: {reason}"),
            TlsError::Certificate(reason) => write!(f, "the certificate is not valid PEM: {reason}"),
            TlsError::Key(reason) => write!(f, "the private key does not do: {reason}"),
            TlsError::Library(reason) => write!(f, "TLS cannot be set up: {reason}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// How TLS is spoken with a server. Clones share what is behind it.
#[derive(Clone)]
pub struct Tls {
    connector: SslConnector,
    server_name: Option<String>,
    verify: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("server_name", &self.server_name)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads certificates and keys.
    pub fn new(settings: &TlsSettings<'_>) -> Result<Tls, TlsError> {
        let library = |error| TlsError::Library(reason(&error));
        let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(library)?;
        let offer = &settings.offer;
        let oldest = if offer.only_tls13 { SslVersion::TLS1_3 } else { SslVersion::TLS1_2 };
        builder.set_min_proto_version(Some(oldest)).map_err(library)?;
        offer.groups.map_or(Ok(()), |groups| builder.set_groups_list(groups)).map_err(library)?;
        offer.tls13_ciphers.map_or(Ok(()), |ciphers| builder.set_ciphersuites(ciphers)).map_err(library)?;
        offer.tls12_ciphers.map_or(Ok(()), |ciphers| builder.set_cipher_list(ciphers)).map_err(library)?;
        // Whether what was read is whole is HTTP's to tell, or the agent's.
        builder.set_options(SslOptions::IGNORE_UNEXPECTED_EOF);
        if !settings.verify {
            builder.set_verify(SslVerifyMode::NONE);
        }
        if let Some(pem) = settings.authorities {
            let mut store = X509StoreBuilder::new().map_err(library)?;
            for certificate in certificates(pem).map_err(TlsError::Authorities)? {
                store.add_cert(certificate).map_err(library)?;
            }
            builder.set_cert_store(store.build());
        } else if let Some(file) = AUTHORITIES.into_iter().find(|file| Path::new(file).exists()) {
            // Beside SSL_CERT_FILE, which OpenSSL looks for itself. A bad file only means fewer authorities.
            let _ = builder.set_ca_file(file);
        }
        if let Some((certificate, key)) = settings.identity {
            let mut chain = certificates(certificate).map_err(TlsError::Certificate)?.into_iter();
            if let Some(own) = chain.next() {
                builder.set_certificate(&own).map_err(|e| TlsError::Certificate(reason(&e)))?;
            }
            for further in chain {
                builder.add_extra_chain_cert(further).map_err(library)?;
            }
            // Without a callback of ours, OpenSSL would ask the terminal for the passphrase of an encrypted key.
            let key = PKey::private_key_from_pem_callback(key, |_| Ok(0)).map_err(|e| TlsError::Key(reason(&e)))?;
            builder.set_private_key(&key).map_err(|e| TlsError::Key(reason(&e)))?;
            builder.check_private_key().map_err(|e| TlsError::Key(reason(&e)))?;
        }
        let server_name = settings.server_name.map(str::to_owned);
        Ok(Tls { connector: builder.build(), server_name, verify: settings.verify })
    }

    /// Shakes hands over a connected, non-blocking socket.
    pub(super) fn connect(&self, host: &str, socket: TcpStream, deadline: Deadline) -> Result<Stream, Error> {
        let failed = |error: ErrorStack| Error::Tls(reason(&error));
        let name = self.server_name.as_deref().unwrap_or(host);
        let configuration = self.connector.configure().map_err(failed)?.verify_hostname(self.verify);
        let ssl = configuration.into_ssl(name).map_err(failed)?;
        let inner = SslStream::new(ssl, socket).map_err(failed)?;
        let mut stream = Stream { inner, wanted: PollFlags::IN };
        loop {
            match stream.inner.connect() {
                Ok(()) => return Ok(stream),
                Err(error) => match stream.blocked(error) {
                    Ok(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        deadline.wait(stream.as_fd(), stream.wanted, Phase::Connect)?;
                    }
                    Ok(error) => return Err(Error::Connect(error)),
                    Err(reason) => return Err(Error::Tls(stream.refusal(reason))),
                },
            }
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<X509>, String> {
    match X509::stack_from_pem(pem) {
        Ok(certificates) if certificates.is_empty() => Err("no certificate in it".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(reason(&error)),
    }
}

/// The cause of an error, in OpenSSL's words: the first of its reasons, of which the others are the consequences.
fn reason(stack: &ErrorStack) -> String {
    stack.errors().iter().find_map(|error| error.reason()).unwrap_or("unknown error").to_owned()
}

/// A TLS stream: see [`super::Transport`] for what can be expected of a read.
#[derive(Debug)]
pub struct Stream {
    inner: SslStream<TcpStream>,
    /// What the last call that would have blocked waits for.
    wanted: PollFlags,
}

impl Stream {
    /// What to poll for after a call that would have blocked.
    pub(super) fn wanted(&self) -> PollFlags {
        self.wanted
    }

    /// Tells the other end that no more is written, as far as the socket takes it now: a few bytes, so nearly always.
    pub(super) fn shutdown_write(&mut self) -> io::Result<()> {
        self.inner.shutdown().map(drop).map_err(|error| self.blocked(error).unwrap_or_else(io::Error::other))
    }

    /// Whether something is decrypted and was not read.
    pub(super) fn has_more(&self) -> bool {
        self.inner.ssl().pending() > 0
    }

    /// Turns OpenSSL's error into the socket's, or gives the reason where it is TLS that has failed.
    fn blocked(&mut self, error: ssl::Error) -> Result<io::Error, String> {
        match error.code() {
            ErrorCode::WANT_READ => self.wanted = PollFlags::IN,
            ErrorCode::WANT_WRITE => self.wanted = PollFlags::OUT,
            _ => {
                return error
                    .into_io_error()
                    .map_err(|error| error.ssl_error().map_or_else(|| CLOSED.to_owned(), reason));
            }
        }
        Ok(io::ErrorKind::WouldBlock.into())
    }

    /// Why there was no handshake, with what is wrong with the server's certificate if it is that.
    fn refusal(&self, reason: String) -> String {
        let ssl = self.inner.ssl();
        match ssl.verify_result() {
            cause if cause != X509VerifyResult::OK && ssl.verify_mode() != SslVerifyMode::NONE => {
                format!("{reason}: {}", cause.error_string())
            }
            _ => reason,
        }
    }
}

impl io::Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.ssl_read(buffer) {
            Ok(n) => Ok(n),
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => Ok(0),
            Err(error) => Err(self.blocked(error).unwrap_or_else(io::Error::other)),
        }
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.ssl_write(bytes).map_err(|error| self.blocked(error).unwrap_or_else(io::Error::other))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.get_ref().as_fd()
    }
}

impl Drop for Stream {
    /// Tells the other end that this was all, as far as the socket takes it.
    fn drop(&mut self) {
        let _ = self.inner.shutdown();
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
