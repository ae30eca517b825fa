//! Sections of ContainerSSH's that berth has not, or not yet: all keys are known, and fine where they ask for nothing.

use super::section::Section;

const AUDIT: &str = "audit logs are not available yet; remove it, or set it to false";
const KERBEROS: &str = "Kerberos is not available: berth has no GSSAPI";
pub(super) fn audit<T: 'static>() -> Section<T> {
    let s3 = Section::new()
        .inert(&["local", "accessKey", "secretKey", "bucket", "region", "endpoint", "cacert", "acl", "pathStyleAccess"])
        .inert(&["uploadPartSize", "parallelUploads"])
        .absent("metadata", Section::new().inert(&["ip", "username"]));
    let intercept = Section::new().inert(&["stdin", "stdout", "stderr", "passwords", "forwarding"]);
    Section::new()
        .refused(&["enable"], AUDIT)
        .inert(&["format", "storage"])
        .absent("file", Section::new().inert(&["directory"]))
        .absent("s3", s3)
        .absent("intercept", intercept)
}

/// The section `kerberos` of a method.
pub(super) fn kerberos<T: 'static>() -> Section<T> {
    let keys = ["keytab", "acceptor", "enforceUsername", "credentialCachePath", "configPath", "clockSkew"];
    Section::new().absent("kerberos", Section::new().inert(&keys))
}

pub(super) fn gssapi<T: 'static>() -> Section<T> {
    kerberos().refused(&["method"], KERBEROS)
}

pub(super) fn http_client<T: 'static>() -> Section<T> {
    Section::new().inert(&[
        "url",
        "allowRedirects",
        "timeout",
        "cacert",
        "cert",
        "key",
        "tlsVersion",
        "curves",
        "cipher",
    ])
}
